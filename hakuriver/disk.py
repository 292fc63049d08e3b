"""Folders and files that their owner alone may look into, and that one process at a time has."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path


class Taken(Exception):  # noqa: N818 - an answer, which each caller words for its users
    """Another process has the file locked; `pid` is what it wrote there of itself."""

    def __init__(self, pid: str) -> None:
        super().__init__(f"pid {pid}")
        self.pid = pid


def make_private(folder: Path) -> None:
    """Make `folder` and those above it that are missing, with mode 0700.

    Those that exist keep their mode. Raises `OSError` as `Path.mkdir` does, whose ``parents``
    would leave the ones above open to everybody.
    """
    try:
        folder.mkdir(mode=0o700)
    except FileNotFoundError:
        make_private(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
    except FileExistsError:
        if not folder.is_dir():
            raise


@contextmanager
def opened_folder(folder: Path) -> Generator[int]:
    """Give a descriptor of `folder` itself, which is never found through a link at its name."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def let_pass(folder: Path) -> None:
    """Let others pass through `folder`; what else they may do there stays as it is."""
    with opened_folder(folder) as descriptor:
        mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
        os.fchmod(descriptor, mode | 0o011)


def write_private(path: Path, content: bytes, *, owner: tuple[int, int] | None = None) -> None:
    """Write a file with mode 0600 that appears whole or not at all, even if the power fails.

    `owner` are the ids of the user and the group that it is to belong to, if not to this process's.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    flags = os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(draft, flags, 0o600), "wb") as file:
        if owner is not None:
            os.fchown(file.fileno(), *owner)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def remove_at(name: str, folder: int) -> None:
    """Remove a file, a link, or a folder with all that is in it, in the folder of a descriptor.

    Raises:
        OSError: something cannot be removed, or lies so deep that this gives up.
    """
    try:
        os.unlink(name, dir_fd=folder)
    except IsADirectoryError:
        try:
            shutil.rmtree(name, dir_fd=folder)
        except RecursionError:
            raise OSError(errno.ELOOP, "folders nested too deep", name) from None


def lock_alone(path: Path) -> int:
    """Lock `path`, which is made if need be, until the returned descriptor is closed.

    Raises:
        Taken: another process has it.
    """
    lock = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = os.pread(lock, 32, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(lock)
        raise Taken(pid) from None
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    return lock
