"""The embedded cluster's files: facts about the running one, its secrets, settings and logs.

Facts lie in the user's runtime folder (``embedded.json``), all else in
``$XDG_STATE_HOME/hakuriver/embedded``. Every file is readable by its owner alone.
"""

from __future__ import annotations

import os
import secrets
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec
import platformdirs

from hakuriver.client.endpoint import embedded_file
from hakuriver.disk import Taken, lock_alone, make_private, write_private
from hakuriver.embedded.processes import Daemon
from hakuriver.errors import StartError

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from pathlib import Path

_LAST_WORDS = 2000
_LOCK_SECONDS = 60.0


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """The content of `embedded.json`: where the cluster is, and what it consists of."""

    url: str
    token: str
    nodes: list[str]
    daemons: list[Daemon]


class Secrets(msgspec.Struct, frozen=True):
    """What stays the same from one `up` to the next."""

    runner_secret: str
    token: str


def data() -> Path:
    """Return the folder of the cluster's data, which is made if need be."""
    folder = platformdirs.user_state_path("hakuriver") / "embedded"
    make_private(folder)
    return folder


def log(name: str) -> Path:
    """Return where a daemon's log goes."""
    return data() / f"{name}.log"


def settings(name: str) -> Path:
    """Return where a daemon's configuration lies."""
    return data() / f"{name}.toml"


def former_nodes(names: Sequence[str]) -> list[str]:
    """Return the nodes of earlier clusters of this user that are not among `names`."""
    known = {path.stem for path in data().glob("node*.toml")}
    return sorted(known - set(names))


def last_words(name: str) -> str:
    """Return the end of a daemon's log, and where the rest of it is."""
    text = log(name).read_bytes()[-_LAST_WORDS:].decode("utf-8", "replace").strip()
    return f"{text or 'it said nothing'} (log: {log(name)})"


@contextmanager
def lock() -> Generator[None]:
    """Let one caller at a time start or end the cluster; raise `StartError` if it takes long."""
    path = embedded_file().with_suffix(".lock")
    _make_own(path.parent)
    descriptor = _claim(path)
    try:
        yield
    finally:
        os.close(descriptor)


def _claim(path: Path) -> int:
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            return lock_alone(path)
        except Taken as taken:
            if time.monotonic() > deadline:
                raise StartError(
                    f"another `hakuriver up` or `down` does not end (pid {taken.pid} holds {path})"
                ) from None
            time.sleep(0.05)


def _make_own(folder: Path) -> None:
    """Make a folder that nobody else can write; another user may have made one of that name."""
    make_private(folder)
    status = folder.lstat()
    if status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise StartError(
            f"{folder} belongs to somebody else; set XDG_RUNTIME_DIR to a folder of yours"
        )


def read_facts() -> Facts | None:
    """Return the facts about the cluster that was started last, None if it was ended."""
    try:
        return msgspec.json.decode(embedded_file().read_bytes(), type=Facts)
    except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError):
        return None


def write_facts(facts: Facts) -> None:
    """Let clients find the cluster."""
    write_private(embedded_file(), msgspec.json.encode(facts))


def kept_secrets() -> Secrets:
    """Return the secrets of this user's embedded cluster, made on the first call."""
    path = data() / "secrets.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=Secrets)
    except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError):
        made = Secrets(secrets.token_hex(32), secrets.token_urlsafe(32))
        write_private(path, msgspec.json.encode(made))
        return made


def write_settings(name: str, sections: dict[str, dict[str, object]]) -> Path:
    """Write a daemon's configuration as TOML and return its path."""
    lines: list[str] = []
    for section, keys in sections.items():
        lines.append(f"[{section}]")
        # JSON's strings and numbers are TOML's.
        lines += [f"{key} = {msgspec.json.encode(value).decode()}" for key, value in keys.items()]
    path = settings(name)
    write_private(path, ("\n".join(lines) + "\n").encode())
    return path
