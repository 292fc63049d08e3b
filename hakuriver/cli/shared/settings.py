"""The configuration of a command, and JSON for its readers: for those that are of the cluster.

Apart from `common`, because reading either needs msgspec, whose import a sweep on this machine and
a ``--help`` would wait for.
"""

from __future__ import annotations

import os
import shlex
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from hakuriver.cli.shared.common import tell
from hakuriver.config import expand, find_config, load_config

if TYPE_CHECKING:
    from pathlib import Path

    from hakuriver.config import Config

_OTHERS = 0o044


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
