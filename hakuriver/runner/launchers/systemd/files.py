"""The files by which units and runner know of each other. All methods block: use a thread.

``orders/ID`` is a task's order until its first program has read it; from then on it is empty, or
holds that program's last word (see `inside`). It belongs to the task's user. ``exits/ID`` is the
record that systemd writes at the end, as root, in a folder that no task of another user can enter;
``exits/ID.kill`` says that the end was asked for before.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from hakuriver.disk import let_pass, make_private, opened_folder, remove_at, write_private
from hakuriver.logfiles import open_log
from hakuriver.runner.launchers.systemd.manager import Mode
from hakuriver.runner.launchers.systemd.properties import RECORD_SCRIPT, Kind
from hakuriver.runner.launchers.systemd.records import Told, Word, parse, to_record
from hakuriver.runner.state import boot_id

if TYPE_CHECKING:
    from pathlib import Path

    from hakuriver.runner.exits import ExitRecord
    from hakuriver.runner.launchers.systemd.manager import Account
    from hakuriver.runner.launchers.systemd.tools import UnitState

_log = logging.getLogger(__name__)

_KILL = ".kill"
#: How an order begins, and a word does not.
_ORDER = b'{"argv":'
_LOCK_TRIES = 100
_LOCK_PAUSE = 0.01
_MAX_WORD = 1 << 16

_word_decoder = msgspec.json.Decoder(Word)


class Way(msgspec.Struct, frozen=True):
    """How units were made during the boot `boot_id`."""

    mode: Mode
    kind: Kind
    boot_id: str


def running_way(root: Path) -> Way | None:
    """Return how the tasks were started that may still run as units; None if there are none."""
    try:
        way = msgspec.json.decode((root / "way.json").read_bytes(), type=Way)
        unfinished = _ids(root / "orders") - _ids(root / "exits")
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None
    return way if unfinished and way.boot_id == boot_id() else None


@dataclass(slots=True)
class UnitFiles:
    """The tree under `root`; `Exits` for the units' launchers."""

    root: Path
    account: Account
    #: Tasks whose end was asked for, whatever the disk says of that.
    _killed: set[int] = field(default_factory=set)
    #: What systemd told of units that had ended.
    _learned: dict[int, UnitState] = field(default_factory=dict)

    def order(self, task_id: int) -> Path:
        """Return where a task's order lies."""
        return self.root / "orders" / str(task_id)

    def record(self, task_id: int) -> Path:
        """Return where a task's exit record will lie."""
        return self.root / "exits" / str(task_id)

    @property
    def exits(self) -> Path:
        """The folder of the exit records."""
        return self.root / "exits"

    @property
    def script(self) -> Path:
        """Where `RECORD_SCRIPT` lies; units that run may still want an older one."""
        digest = hashlib.sha256(RECORD_SCRIPT.encode()).hexdigest()[:12]
        return self.root / f"record-{digest}.sh"

    def make(self) -> None:
        """Make the folders and the script, or give them back the modes that they must have."""
        for folder in (self.root, self.root / "orders", self.exits):
            make_private(folder)
        if os.geteuid() != self.account.uid:
            let_pass(self.root)
            let_pass(self.root / "orders")
        self.exits.chmod(0o700)
        write_private(self.script, RECORD_SCRIPT.encode())

    def remember(self, mode: Mode, kind: Kind) -> None:
        """Write down how units are made, for a runner that would make them otherwise."""
        way = Way(mode, kind, boot_id())
        write_private(self.root / "way.json", msgspec.json.encode(way))

    # Orders

    def give(self, task_id: int, order: bytes) -> None:
        """Put down an order, for the task's user alone."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self.order(task_id), flags, 0o600)
        with open(descriptor, "wb") as file:  # noqa: PTH123 - pathlib takes no descriptor
            if os.geteuid() != self.account.uid:
                os.fchown(descriptor, self.account.uid, self.account.gid)
            file.write(order)

    def withdraw(self, task_id: int) -> bool:
        """Take back an order that nobody has read; False if it was read, or never given."""
        path = self.order(task_id)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return False
        with open(descriptor, "rb") as file:  # noqa: PTH123
            # Against whoever is reading it at this moment.
            if not _locked(descriptor) or os.fstat(descriptor).st_size == 0:
                return False
            if _as_word(file.read(_MAX_WORD)) is not None:
                return False
            path.unlink(missing_ok=True)
        return True

    def given(self) -> set[int]:
        """Return the tasks whose orders lie here, read or not."""
        return _ids(self.root / "orders")

    def started_at(self, task_id: int) -> float | None:
        """Return when a task's order was read, None if it was not."""
        with contextlib.suppress(FileNotFoundError):
            status = self.order(task_id).lstat()
            return status.st_mtime if status.st_size == 0 else None
        return None

    def _left(self, task_id: int) -> bytes:
        """Return the beginning of what a task's order file holds now."""
        with contextlib.suppress(OSError):
            # As a log, it is never read through a link, nor from a pipe.
            descriptor = open_log(self.order(task_id))
            if descriptor is not None:
                with open(descriptor, "rb") as file:  # noqa: PTH123
                    return file.read(_MAX_WORD)
        return b""

    # Ends

    def note_kill(self, task_id: int) -> bool:
        """Note that a task is to end; False if it has ended by itself."""
        if self.read(task_id) is not None:
            return False
        self._killed.add(task_id)
        # A disk that the task has filled is no reason to let it live.
        with contextlib.suppress(OSError):
            self._kill(task_id).touch(0o600)
        return True

    def _kill(self, task_id: int) -> Path:
        return self.exits / f"{task_id}{_KILL}"

    def learn(self, task_id: int, state: UnitState) -> None:
        """Take note of what systemd tells of a unit that has ended, for its record."""
        self._learned[task_id] = state

    def ended(self) -> set[int]:
        """Return the tasks that have a record, whole or not."""
        return _ids(self.exits)

    def read(self, task_id: int, *, settled: bool = False) -> ExitRecord | None:
        """Return the record of one task, None if there is none.

        Of a unit that is `settled`, so that nobody writes its record any more, what systemd told
        of it does as well.
        """
        told, completed_at = self._told(task_id, settled=settled)
        state = self._learned.get(task_id)
        if told is None and settled and state is not None and state.active == "failed":
            told = told_by(state)
        if told is None:
            return None
        left = self._left(task_id)
        return to_record(
            told,
            word=_as_word(left),
            unread=left.startswith(_ORDER),
            started_at=self.started_at(task_id),
            completed_at=completed_at,
            killed=task_id in self._killed or self._kill(task_id).exists(),
            ran=None if state is None else state.ran,
        )

    def _told(self, task_id: int, *, settled: bool) -> tuple[Told | None, float]:
        """Return what stands in a record, and when it was written."""
        try:
            with self.record(task_id).open("rb") as file:
                written = os.fstat(file.fileno()).st_mtime
                line = file.read(_MAX_WORD).decode("ascii", "replace")
        except OSError as error:
            if not isinstance(error, FileNotFoundError):
                _log.warning("%s: %s", self.record(task_id), error.strerror)
            return None, time.time()
        return parse(line, settled=settled), written

    def load(self) -> dict[int, ExitRecord]:
        """Return all records, at a time when no unit writes one that is not watched."""
        known = self.ended() | self._learned.keys()
        found = ((task_id, self.read(task_id, settled=True)) for task_id in known)
        return {task_id: record for task_id, record in found if record is not None}

    def droppable(self) -> set[int]:
        """Return all tasks of which there are files."""
        kills = {name.removesuffix(_KILL) for name in os.listdir(self.exits)}  # noqa: PTH208
        return self.given() | self.ended() | {int(name) for name in kills if name.isdigit()}

    def drop(self, task_ids: set[int]) -> None:
        """Remove everything of these tasks."""
        for task_id in task_ids:
            self._learned.pop(task_id, None)
            self._killed.discard(task_id)
            for path in (self.order(task_id), self.record(task_id), self._kill(task_id)):
                _remove(path)


def _remove(path: Path) -> None:
    """Remove a file, or what a task of the same user has put in its place."""
    try:
        with opened_folder(path.parent) as folder:
            remove_at(path.name, folder)
    except FileNotFoundError:
        return
    except OSError as error:
        _log.warning("%s cannot be removed: %s", path, error.strerror)


def told_by(state: UnitState) -> Told:
    """Return what a record would have told of a unit, as far as systemd still knows it."""
    return Told(
        result=state.result,
        code=state.code,
        cpu_seconds=state.cpu_seconds,
        peak_memory_bytes=state.peak_memory_bytes,
        time_limit=state.time_limit,
        memory_limit=state.memory_limit,
        system="-",
    )


def _as_word(content: bytes) -> Word | None:
    with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
        return _word_decoder.decode(content)
    return None


def _locked(descriptor: int) -> bool:
    """Lock a file that another process has for a moment at most; False if that does not end."""
    for _ in range(_LOCK_TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_LOCK_PAUSE)
        else:
            return True
    return False


def _ids(folder: Path) -> set[int]:
    return {int(name) for name in os.listdir(folder) if name.isascii() and name.isdigit()}  # noqa: PTH208
