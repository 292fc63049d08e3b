"""The database's file: where it may lie, and that one host alone has it."""

from __future__ import annotations

import os
import re
from pathlib import Path

from hakuriver.disk import Taken, lock_alone, make_private
from hakuriver.errors import StoreError

# How the kernel writes a space, a tab, a newline or a backslash in a mount point.
_OCTAL = re.compile(r"\\([0-7]{3})")
_NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "lustre", "ceph", "afs"})


def prepare(path: Path) -> int:
    """Make the folder and the file (0600) and lock it; return the lock's descriptor.

    Raises:
        StoreError: another host has it, it lies on a network file system (where SQLite's
            write-ahead log does not work), or it cannot be made.
    """
    # By whatever way it is named: one file, one lock.
    path = Path(os.path.realpath(path))
    try:
        make_private(path.parent)
        kind = _file_system(path.parent.resolve(), Path("/proc/self/mountinfo").read_text("utf-8"))
        if kind in _NETWORK:
            raise StoreError(
                f"{path}: lies on a network file system ({kind}), where SQLite loses data; "
                "set database.db_file to a local folder"
            )
        lock = _lock(path)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise StoreError(
            f"{path}: cannot be made or opened ({error.strerror}); set database.db_file"
        ) from None
    return lock


def _lock(path: Path) -> int:
    try:
        return lock_alone(path.with_name(path.name + ".lock"))
    except Taken as taken:
        raise StoreError(
            f"{path}: another host has this database open (pid {taken.pid}); stop it, or set "
            "database.db_file to another file"
        ) from None


def _file_system(folder: Path, mountinfo: str) -> str:
    """Return the type of file system that `folder` lies on, by the longest mount point."""
    best, kind = "", ""
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        mount = _OCTAL.sub(lambda match: chr(int(match[1], 8)), left.split()[4])
        if folder.is_relative_to(mount) and len(mount) >= len(best):
            best, kind = mount, right.split()[0]
    return kind
