"""Old journals are removed when a new sweep begins: there is one a sweep, and they add up."""

from __future__ import annotations

import fcntl
import os
import re
import stat
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from hakuriver.sweep.journal import read_header

if TYPE_CHECKING:
    from collections.abc import Iterator

_DAY = 24 * 60 * 60.0
#: Seconds after its last line that the journal of a finished sweep stays, and any other.
KEEP_FINISHED = 180 * _DAY
KEEP_ANY = 365 * _DAY
# As `new_id` and those before it made them; whatever else lies there is not ours to remove.
_NAME = re.compile(r"[0-9]{8}-[0-9]{6}-[0-9a-f]{6,9}\.jsonl")
# The whole line of an end as `Journal.add` writes it, and what it holds if that was well. In text
# quotes are escaped, but a value may hold the like. Read as JSON, a million lines take seconds.
_END = re.compile(rb'^\{"e":([0-9]+),("exit_code":0,)?.*\n', re.MULTILINE)
_COMPLETED = b'"exit_code":0,'
_PART = 1 << 20


def prune_journals(folder: Path) -> None:
    """Remove the journals in `folder` that were not written for long.

    Those of sweeps of which all combinations have completed go after `KEEP_FINISHED` seconds, all
    others after `KEEP_ANY`. What is no journal, bears a name of its own, is a link, or is held by
    a process stays, and so does what cannot be read or removed: nothing is raised.
    """
    now = time.time()
    old: list[Path] = []
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if _NAME.fullmatch(entry.name):
                found = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(found.st_mode) and now - found.st_mtime > KEEP_FINISHED:
                    old.append(Path(entry.path))
    for path in old:
        # One that is damaged, or gone by now, must not keep the new sweep from its start.
        with suppress(Exception):
            _prune(path, now)


def _prune(path: Path, now: float) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        # Whoever writes it holds this lock; who has held it until now may have written.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        age = now - os.fstat(descriptor).st_mtime
        header = read_header(path)
        if header.sweep_id != path.stem or age <= KEEP_FINISHED:
            return
        if age > KEEP_ANY or _is_finished(path, header.total):
            path.unlink()
    finally:
        os.close(descriptor)


def _is_finished(path: Path, total: int) -> bool:
    with path.open("rb") as file:
        # Each new sweep looks at those that are not: a million lines are told by this in 0.1 s.
        if sum(part.count(_COMPLETED) for part in _parts(file)) < total:
            return False
        file.seek(0)
        completed = bytearray(total)
        for part in _parts(file):
            for index, mark in _END.findall(part):
                completed[int(index)] = mark == _COMPLETED
    return all(completed)


def _parts(file: BinaryIO) -> Iterator[bytes]:
    """Give the file in parts of whole lines."""
    while part := file.read(_PART) + file.readline():
        yield part
