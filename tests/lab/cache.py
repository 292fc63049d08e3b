"""A cache of folders that are named by what went into them, so that none is ever stale."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_ROOM = 4 << 30


class Cache:
    """Folders below one root; an entry appears whole or not at all, and is never changed.

    Several processes may share it: building is one at a time, and what a process holds is not
    removed by another one.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._used: set[Path] = set()
        self._held: list[int] = []

    @classmethod
    def default(cls) -> Cache:
        """Return the cache at ``$HAKURIVER_LAB_CACHE``, else below the user's own cache."""
        named = os.environ.get("HAKURIVER_LAB_CACHE")
        return cls(Path(named) if named else Path.home() / ".cache" / "hakuriver" / "lab")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from building and removing meanwhile."""
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def entry(self, kind: str, parts: Iterable[str | bytes], make: Callable[[Path], None]) -> Path:
        """Return the folder for `parts`; `make` fills it if it is not there yet.

        It is held until `release`. Safe to call from several threads for different entries.
        """
        path = self.root / f"{kind}-{_digest(parts)}"
        if not path.is_dir():
            unfinished = path.with_name(f"{path.name}.unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            make(unfinished)
            unfinished.rename(path)
        self._used.add(path)
        self._held.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        fcntl.flock(self._held[-1], fcntl.LOCK_SH)
        return path

    def prune(self) -> None:
        """Remove all entries but those used here and those that another process holds."""
        for path in self.root.iterdir():
            if path.is_dir() and path not in self._used:
                folder = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    with suppress(BlockingIOError):
                        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        shutil.rmtree(path)
                finally:
                    os.close(folder)

    def release(self) -> None:
        """Let others remove what was used here."""
        while self._held:
            os.close(self._held.pop())


def _digest(parts: Iterable[str | bytes]) -> str:
    whole = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        # The length keeps apart what would run together.
        whole.update(b"%d:" % len(data) + data)
    return whole.hexdigest()[:16]


def scratch() -> Path:
    """Return a folder for many small files: in memory if there is room, for that is far quicker."""
    memory = Path("/dev/shm")
    if memory.is_dir() and shutil.disk_usage(memory).free > _ROOM:
        return memory
    return Path(os.environ.get("TMPDIR", "/tmp"))
