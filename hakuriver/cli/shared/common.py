"""What all commands share: their common options, their configuration, and how they fail.

A command that fails says one line on stderr (what, where, how to mend it) and exits non-zero;
a traceback is for faults of ours alone, and goes to the log.
"""

from __future__ import annotations

import os
import shlex
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from hakuriver._version import __version__
from hakuriver.cli.shared.tables import printable
from hakuriver.config import expand, find_config, load_config
from hakuriver.errors import HakuRiverError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from pathlib import Path

    from hakuriver.config import Config

_OTHERS = 0o044


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Add what every command takes."""
    parser.add_argument("-c", "--config", metavar="PATH", help="the configuration file to use")
    parser.add_argument("--version", action="version", version=f"hakuriver-jupyter {__version__}")


def settings(name: str, explicit: str | None) -> Config:
    """Return the settings that hold; warn on stderr if others can read their secrets."""
    config = load_config(explicit)
    path = find_config(explicit, os.environ)
    security = config.security
    secret = security.runner_secret or security.runner_token or security.tokens
    if path is not None and secret and os.name == "posix" and path.stat().st_mode & _OTHERS:
        tell(name, f"others can read the secrets in {path}: chmod 600 {shlex.quote(str(path))}")
    if config.network.tls_key and os.name == "posix":
        _warn_of_key(name, expand(config.network.tls_key))
    return config


def _warn_of_key(name: str, key: Path) -> None:
    # Whoever uses it tells if it cannot be had; on other machines than the host's it is not there.
    with suppress(OSError):
        if key.stat().st_mode & _OTHERS:
            tell(name, f"others can read the key {key}: chmod 600 {shlex.quote(str(key))}")


def print_json(value: object) -> None:
    """Print `value` as JSON, indented for people."""
    text = msgspec.json.format(msgspec.json.encode(value), indent=2)
    sys.stdout.buffer.write(text + b"\n")


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
