"""What all commands share: their common options, their logging, and how they fail.

A command that fails says one line on stderr (what, where, how to mend it) and exits non-zero;
a traceback is for faults of ours alone, and goes to the log.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

from hakuriver._version import __version__
from hakuriver.cli.tables import printable
from hakuriver.errors import HakuRiverError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Add what every command takes."""
    parser.add_argument("-c", "--config", metavar="PATH", help="the configuration file to use")
    parser.add_argument("--version", action="version", version=f"hakuriver-jupyter {__version__}")


def log_to_stderr() -> None:
    """Let a daemon's log go to stderr, where systemd and `hakuriver up` collect it."""
    logging.basicConfig(level=logging.INFO, format=_FORMAT, stream=sys.stderr)


def run(name: str, command: Callable[[], int]) -> int:
    """Run a command and return its exit code; an error of ours becomes one line on stderr."""
    try:
        return command()
    except HakuRiverError as error:
        # What a host said must not write on the terminal.
        message = printable(" ".join(str(error).split()))
        print(f"{name}: {message}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
