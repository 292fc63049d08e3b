"""The journal of a sweep: which combinations have ended and how, one line an event.

The file begins with what the sweep is, written whole or not at all. Each end after that is one
write, so that a process which is killed leaves at most a torn last line, which is cut off when
the journal is opened again: its combination runs once more. Against a loss of power the file is
synchronised once a second and at the end, and before a task is submitted.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from array import array
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import platformdirs

from hakuriver.disk import make_private, write_private
from hakuriver.errors import Conflict, HakuRiverError, NotFound
from hakuriver.sweep.records import Ended

if TYPE_CHECKING:
    from collections.abc import Iterator

_VERSION = 1
_SYNC_SECONDS = 1.0
_SUFFIX = ".jsonl"


class JournalError(HakuRiverError, OSError):
    """A journal cannot be read or written; the message says which and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a sweep is. `words` are its command as it was given, spans and all."""

    sweep_id: str
    name: str
    created: float
    words: list[str]
    side_by_side: bool
    total: int
    digest: str
    names: list[str]
    folder: str
    #: Where and how its tasks run, without values of variables; empty for a sweep on this machine.
    cluster: dict[str, Any]

    @property
    def shown(self) -> str:
        """How people call it."""
        return self.name or self.sweep_id


def new_id() -> str:
    """Return an id that no other sweep has; later ones sort after earlier ones."""
    now = time.time()
    # Of the last digits the first three are the part of the second: two may begin within one.
    part = int(now % 1 * 4096)
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime(now))}-{part:03x}{os.urandom(3).hex()}"


def journals_folder() -> Path:
    """Return where journals lie unless another path is given."""
    return platformdirs.user_state_path("hakuriver") / "sweeps"


def read_header(path: Path) -> Header:
    """Return what the sweep of a journal is; raise `JournalError` if the file is no journal."""
    try:
        with path.open("rb") as file:
            content = json.loads(file.readline())
        if content.pop("hakurun") != _VERSION:
            raise JournalError(f"{path} was written by another version of hakurun")
        return Header(**content)
    except OSError as error:
        if isinstance(error, JournalError):
            raise
        raise JournalError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise JournalError(f"{path} is no journal of a sweep") from None


def all_journals() -> Iterator[tuple[Path, Header]]:
    """Give the journals in their folder, the newest first."""
    for path in sorted(journals_folder().glob(f"*{_SUFFIX}"), reverse=True):
        try:
            yield path, read_header(path)
        except JournalError:
            continue


def find_journal(wanted: str | None) -> tuple[Path, Header]:
    """Return the newest journal of this id or name, or without one the newest of all.

    A path of a journal is taken too.

    Raises:
        NotFound: there is none.
    """
    if wanted is not None and (os.sep in wanted or wanted.endswith(_SUFFIX)):
        return Path(wanted), read_header(Path(wanted))
    for path, header in all_journals():
        if wanted is None or wanted in (header.sweep_id, header.name):
            return path, header
    if wanted and Path(wanted).is_file():
        return Path(wanted), read_header(Path(wanted))
    raise NotFound(f"there is no sweep {wanted}" if wanted else "there is no sweep yet")


class Marks:
    """One mark for each combination, a byte each, for those up to the last that has one."""

    NONE, OK, FAILED = range(3)

    def __init__(self) -> None:
        self._marks = bytearray()

    def __getitem__(self, index: int) -> int:
        return self._marks[index] if index < len(self._marks) else self.NONE

    def __setitem__(self, index: int, mark: int) -> None:
        if index >= len(self._marks):
            self._marks.extend(bytes(index + 1 - len(self._marks)))
        self._marks[index] = mark

    def count(self, mark: int) -> int:
        """Return how many have this mark (not `NONE`)."""
        return self._marks.count(mark)


class Journal:
    """A journal that is open to be written, by one process at a time but from any thread."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor
        self._synced = time.monotonic()
        self._lock = threading.Lock()

    @classmethod
    def create(cls, path: Path, header: Header) -> Self:
        """Begin a journal; raise `JournalError` if there is one already, or it cannot be made."""
        content = {"hakurun": _VERSION, **asdict(header)}
        try:
            make_private(path.parent)
            if path.exists():
                raise JournalError(f"{path} exists: go on with it by --resume, or give another")
            write_private(path, json.dumps(content).encode() + b"\n")
        except OSError as error:
            if isinstance(error, JournalError):
                raise
            raise JournalError(f"{path} cannot be written: {error.strerror}") from None
        return cls.open(path)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a journal to go on with it, without its torn last line.

        Raises:
            Conflict: another process writes it.
            JournalError: it cannot be opened, or was removed in this moment.
        """
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        except OSError as error:
            raise JournalError(f"{path} cannot be written: {error.strerror}") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise Conflict(f"the sweep of {path} runs already") from None
        if not _lies_at(path, descriptor):
            # Old ones are removed under this lock: what is written to one now would be lost.
            os.close(descriptor)
            raise JournalError(f"{path} was removed in this moment: run the sweep anew")
        _cut_torn_line(descriptor)
        return cls(path, descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, event: Ended) -> None:
        """Note an end."""
        self.write({"e": event.index, **_plain(event)})

    def write(self, content: dict[str, Any], *, durable: bool = False) -> None:
        """Write one line; with `durable` it is on the disk when this returns."""
        line = json.dumps(content, separators=(",", ":")).encode() + b"\n"
        try:
            with self._lock:
                written = os.write(self._descriptor, line)
                if written != len(line):
                    size = os.fstat(self._descriptor).st_size
                    os.ftruncate(self._descriptor, size - written)
                    raise JournalError(f"{self.path} cannot be written: the disk is full")
            if durable or time.monotonic() - self._synced > _SYNC_SECONDS:
                self.sync()
        except OSError as error:
            if isinstance(error, JournalError):
                raise
            raise JournalError(f"{self.path} cannot be written: {error.strerror}") from None

    def sync(self) -> None:
        """Bring all that was written to the disk."""
        os.fdatasync(self._descriptor)
        self._synced = time.monotonic()

    def close(self) -> None:
        """Synchronise and close it."""
        if self._descriptor >= 0:
            try:
                self.sync()
            finally:
                os.close(self._descriptor)
                self._descriptor = -1


def read_marks(path: Path) -> Marks:
    """Return which combinations have ended well and which have failed."""
    marks = Marks()
    for _, content in _lines(path):
        if "e" in content:
            marks[content["e"]] = Marks.OK if content["exit_code"] == 0 else Marks.FAILED
    return marks


def read_ends(path: Path) -> Iterator[Ended]:
    """Give how each combination ended the last time it ran, in the order of their numbers.

    Memory is eight bytes a combination: the ends are read one by one from the file.
    """
    places = array("q")
    for place, content in _lines(path):
        if "e" in content:
            missing = content["e"] + 1 - len(places)
            if missing > 0:
                places.extend([-1] * missing)
            places[content["e"]] = place
    with path.open("rb") as file:
        for place in places:
            if place >= 0:
                file.seek(place)
                yield _ended(json.loads(file.readline()))


@dataclass(slots=True)
class Attempt:
    """A task of a combination whose end is not known; without `task_id` it may not exist."""

    number: int
    target: str
    task_id: str = ""


@dataclass(slots=True)
class Attempts:
    """What a journal tells of tasks: those that are `open`, and how often each was tried."""

    open: dict[int, Attempt]
    tried: dict[int, int]


def read_attempts(path: Path) -> Attempts:
    """Return the tasks of a journal whose ends are not known."""
    attempts = Attempts({}, {})
    for _, content in _lines(path):
        if "q" in content:
            index, number = content["q"], content["attempt"]
            attempts.tried[index] = number
            attempts.open[index] = Attempt(number, content["target"])
        elif "i" in content and content["i"] in attempts.open:
            attempts.open[content["i"]].task_id = content["task_id"]
        elif "e" in content:
            attempts.open.pop(content["e"], None)
            if content["exit_code"] == 0:
                attempts.tried.pop(content["e"], None)
    return attempts


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open("rb") as file:
        place = len(file.readline())
        for line in file:
            at, place = place, place + len(line)
            if not line.endswith(b"\n"):
                return
            try:
                content = json.loads(line)
            except ValueError:
                continue
            if isinstance(content, dict):
                yield at, content


def _plain(event: Ended) -> dict[str, object]:
    content = {"exit_code": event.exit_code, "seconds": round(event.seconds, 6)}
    content["ended"] = round(event.ended, 3)
    for name in ("tail", "reason", "value", "task_id", "target"):
        if getattr(event, name) not in ("", None):
            content[name] = getattr(event, name)
    return {**content, "attempt": event.attempt}


def _ended(content: dict[str, Any]) -> Ended:
    index = content.pop("e")
    return Ended(index=index, **content)


def _lies_at(path: Path, descriptor: int) -> bool:
    """Tell whether `path` still names the file that is open."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except OSError:
        return False


def _cut_torn_line(descriptor: int) -> None:
    size = os.fstat(descriptor).st_size
    end = size
    while end > 0:
        begin = max(0, end - 4096)
        cut = os.pread(descriptor, end - begin, begin).rfind(b"\n")
        if cut >= 0:
            end = begin + cut + 1
            break
        end = begin
    if end != size:
        os.ftruncate(descriptor, end)
