"""What all commands share: their common options, and how they fail.

A command that fails says one line on stderr (what, where, how to mend it) and exits non-zero;
a traceback is for faults of ours alone, and goes to the log.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from hakuriver._version import __version__
from hakuriver.cli.shared.tables import printable
from hakuriver.errors import HakuRiverError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Add what every command takes."""
    parser.add_argument("-c", "--config", metavar="PATH", help="the configuration file to use")
    parser.add_argument("--version", action="version", version=f"hakuriver-jupyter {__version__}")


def tell(name: str, message: str) -> None:
    """Say one line on stderr; whatever it quotes cannot write on the terminal."""
    print(f"{name}: {printable(' '.join(message.split()))}", file=sys.stderr, flush=True)


def silence_of(address: str) -> str:
    """Return what is said of a host that has gone and is awaited."""
    return f"the host at {address} does not answer; waiting for it"


def run(name: str, command: Callable[[], int]) -> int:
    """Run a command and return its exit code; an error of ours becomes one line on stderr."""
    try:
        return command()
    except HakuRiverError as error:
        tell(name, str(error))
        return error.exit_code
    except KeyboardInterrupt:
        return 130
