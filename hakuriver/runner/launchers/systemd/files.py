"""The files by which units and runner know of each other. All methods block: use a thread.

``orders/ID`` is a task's order until its first program has read it; from then on it is empty, or
holds that program's last word (see `inside`). It belongs to the task's user. ``exits/ID`` is the
record that systemd writes at the end, as root, in a folder that no task can enter;
``exits/ID.kill`` says that the end was asked for before.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from hakuriver.disk import let_pass, make_private, write_private
from hakuriver.logfiles import open_log
from hakuriver.runner.launchers.systemd.properties import RECORD_SCRIPT
from hakuriver.runner.launchers.systemd.records import Word, parse, to_record

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from hakuriver.runner.exits import ExitRecord
    from hakuriver.runner.launchers.systemd.manager import Account

_KILL = ".kill"
_MAX_WORD = 1 << 16

_word_decoder = msgspec.json.Decoder(Word)


@dataclass(slots=True)
class UnitFiles:
    """The tree under `root`; `Exits` for the units' launchers."""

    root: Path
    account: Account
    _old: set[int] = field(default_factory=set)

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
            if path.lstat().st_size == 0 or self._word(task_id) is not None:
                return False
            path.unlink()
        except FileNotFoundError:
            return False
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

    def _word(self, task_id: int) -> Word | None:
        with contextlib.suppress(OSError, msgspec.DecodeError, UnicodeDecodeError):
            # As a log, it is never read through a link, nor from a pipe.
            descriptor = open_log(self.order(task_id))
            if descriptor is not None:
                with open(descriptor, "rb") as file:  # noqa: PTH123
                    return _word_decoder.decode(file.read(_MAX_WORD))
        return None

    # Ends

    def note_kill(self, task_id: int) -> bool:
        """Note that a task is to end; False if it has ended by itself."""
        if self.read(task_id) is not None:
            return False
        path = self.exits / f"{task_id}{_KILL}"
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        return True

    def ended(self) -> set[int]:
        """Return the tasks that have a record, whole or not."""
        return _ids(self.exits)

    def read(self, task_id: int) -> ExitRecord | None:
        """Return the record of one task, None if there is none."""
        path = self.record(task_id)
        try:
            status, line = path.stat(), path.read_text("ascii", "replace")
        except FileNotFoundError:
            return None
        told = parse(line)
        if told is None:
            return None
        return to_record(
            told,
            word=self._word(task_id),
            started_at=self.started_at(task_id),
            completed_at=status.st_mtime,
            killed=(self.exits / f"{task_id}{_KILL}").exists(),
        )

    def load(self) -> dict[int, ExitRecord]:
        """Return all records."""
        found = ((task_id, self.read(task_id)) for task_id in self.ended())
        return {task_id: record for task_id, record in found if record is not None}

    def old_ids(self) -> set[int]:
        """Return the tasks whose files the next `turn_over` removes."""
        self._old = self.ended()
        return set(self._old)

    def turn_over(self) -> None:
        """Remove the files of tasks that had ended at the last look."""
        self.forget(self._old)
        self._old = set()

    def forget(self, task_ids: Iterable[int]) -> None:
        """Remove everything of these tasks."""
        for task_id in task_ids:
            for path in (
                self.order(task_id),
                self.record(task_id),
                self.exits / f"{task_id}{_KILL}",
            ):
                path.unlink(missing_ok=True)


def _ids(folder: Path) -> set[int]:
    return {int(name) for name in os.listdir(folder) if name.isascii() and name.isdigit()}  # noqa: PTH208
