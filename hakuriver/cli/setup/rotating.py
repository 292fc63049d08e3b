"""Replacing secrets in a configuration file: new values appear, every other byte stays.

The running host keeps what it read at its start. A restart takes the new ones up and ends every
connection that was opened with an old one; tasks go on meanwhile.
"""

from __future__ import annotations

import os
import secrets
import tomllib
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import msgspec

from hakuriver.disk import write_private
from hakuriver.errors import ConfigError
from hakuriver.model.auth import cluster_id

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_SECTION = "security"


def rotate_token(path: Path, name: str) -> str:
    """Replace the client token `name` in the file and return the new one.

    Raises:
        ConfigError: there is no such token, or the file cannot be changed in place.
    """
    text, content = _read(path)
    tokens = content.get(_SECTION, {}).get("tokens", {})
    if name not in tokens:
        known = ", ".join(sorted(tokens)) or "none"
        raise ConfigError(f"{path}: security.tokens has no {name!r} (there are: {known})")
    fresh = secrets.token_urlsafe(32)
    wanted = deepcopy(content)
    wanted[_SECTION]["tokens"][name] = fresh
    _write(path, _replaced(path, text, (tokens[name], fresh), wanted, f"security.tokens.{name}"))
    return fresh


def rotate_runner_secret(path: Path) -> None:
    """Replace the secret from which the runners' tokens are made.

    The cluster keeps its identity, which followed from the first secret: it is written beside the
    new one, so that a host whose database is lost still takes the runners' tasks back.

    Raises:
        ConfigError: there is no secret, or the file cannot be changed in place.
    """
    text, content = _read(path)
    old = content.get(_SECTION, {}).get("runner_secret", "")
    if not old:
        raise ConfigError(f"{path}: there is no security.runner_secret to replace")
    fresh = secrets.token_hex(32)
    wanted = deepcopy(content)
    wanted[_SECTION]["runner_secret"] = fresh
    line = ""
    if not content[_SECTION].get("cluster_id"):
        wanted[_SECTION]["cluster_id"] = cluster_id(old)
        line = f'cluster_id = "{cluster_id(old)}"'
    _write(path, _replaced(path, text, (old, fresh), wanted, "security.runner_secret", line=line))


def replace_runner_token(path: Path, fresh: str) -> None:
    """Replace the token of a node in its own file.

    Raises:
        ConfigError: there is none, or the file cannot be changed in place.
    """
    text, content = _read(path)
    old = content.get(_SECTION, {}).get("runner_token", "")
    if not old:
        raise ConfigError(f"{path}: there is no security.runner_token to replace")
    wanted = deepcopy(content)
    wanted[_SECTION]["runner_token"] = fresh
    _write(path, _replaced(path, text, (old, fresh), wanted, "security.runner_token"))


def _replaced(
    path: Path,
    text: str,
    values: tuple[str, str],
    wanted: dict[str, Any],
    key: str,
    *,
    line: str = "",
) -> str:
    """Return `text` with the one value replaced, and with `line` after its own.

    Where the value stands is found by trying: the changed text must mean what is `wanted` and
    nothing else, however the file is written.
    """
    old, fresh = values
    for changed in _attempts(text, old, fresh, line):
        try:
            if tomllib.loads(changed) == wanted:
                return changed
        except tomllib.TOMLDecodeError:
            continue
    raise ConfigError(
        f"{path}: {key} is written in a way that cannot be changed in place: write it as "
        f'{key.rpartition(".")[2]} = "…" on a line of its own'
    )


def _attempts(text: str, old: str, fresh: str, line: str) -> Iterator[str]:
    # JSON's strings are TOML's.
    for quoted in (msgspec.json.encode(old).decode(), f"'{old}'"):
        begin = text.find(quoted)
        while begin >= 0:
            end = begin + len(quoted)
            rest = text[end:]
            if line:
                own, newline, below = rest.partition("\n")
                ending = "\r\n" if own.endswith("\r") else "\n"
                rest = f"{own}{newline or ending}{line}{ending}{below}"
            yield f'{text[:begin]}"{fresh}"{rest}'
            begin = text.find(quoted, end)


def _read(path: Path) -> tuple[str, dict[str, Any]]:
    try:
        # As bytes: the ends of lines stay what they are.
        text = path.read_bytes().decode()
        return text, tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as TOML: {error}") from None


def _write(path: Path, text: str) -> None:
    # Through a link, which stays one; with the owner that the file has, also when root does it.
    file = path.resolve()
    try:
        status = file.stat()
        write_private(file, text.encode(), owner=(status.st_uid, status.st_gid))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror})") from None


def overridden(key: str) -> str | None:
    """Return the variable that overrides a key of ``[security]`` here, None if none does."""
    variable = f"HAKURIVER_SECURITY_{key.upper()}"
    return variable if os.environ.get(variable) is not None else None
