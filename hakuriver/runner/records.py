"""The records of the runner's journal, and what they add up to for each task. Pure."""

from __future__ import annotations

import msgspec

from hakuriver.model.tasks import Exit, Origin, Placement, TaskSpec
from hakuriver.runner.launchers.base import Running


class _Record(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """What all records share: a tag with the class's name, and whom they are about."""

    task_id: int


class Launched(_Record, frozen=True, kw_only=True):
    """The task was given to this runner, during the boot `boot_id`."""

    spec: TaskSpec
    placement: Placement
    boot_id: str
    origin: Origin = Origin()


class Began(_Record, frozen=True, kw_only=True):
    """The task's program runs."""

    running: Running


class KillAsked(_Record, frozen=True, kw_only=True):
    """The task is to end; one that is not yet known will never start.

    `reason` is why the runner itself ends it, None if the host wants it dead.
    """

    reason: str | None = None


class Ended(_Record, frozen=True, kw_only=True):
    """How the task ended, as it is told to the host."""

    exit: Exit


class Forgotten(_Record, frozen=True, kw_only=True):
    """The host has acknowledged the end."""


Record = Launched | Began | KillAsked | Ended | Forgotten


class Entry(msgspec.Struct, kw_only=True):
    """What the journal knows of one task; `launch` is None when only its kill was asked."""

    launch: Launched | None = None
    running: Running | None = None
    kill: bool = False
    #: Why the runner itself ends the task, if nobody had asked for that before.
    blame: str | None = None
    exit: Exit | None = None


_decoder: msgspec.json.Decoder[Record] = msgspec.json.Decoder(Record)


def to_line(record: Record) -> bytes:
    """Return the line that stands for `record` in the file."""
    return msgspec.json.encode(record) + b"\n"


def from_line(line: bytes) -> Record | None:
    """Return the record in `line`; None for a torn one."""
    try:
        return _decoder.decode(line) if line.endswith(b"\n") else None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def apply(entries: dict[int, Entry], record: Record) -> None:
    """Lay `record` over `entries`; doing so twice changes nothing."""
    if isinstance(record, Forgotten):
        entries.pop(record.task_id, None)
        return
    if isinstance(record, Launched | KillAsked):
        entries.setdefault(record.task_id, Entry())
    entry = entries.get(record.task_id)
    match entry, record:
        case None, _:  # a late word about a task that is forgotten
            return
        case Entry(), Launched():
            entry.launch = record
        case Entry(), Began():
            entry.running = record.running
        case Entry(), KillAsked():
            entry.blame = entry.blame if entry.kill else record.reason
            entry.kill = True
        case Entry(), Ended():
            entry.exit = record.exit


def records_of(task_id: int, entry: Entry) -> list[Record]:
    """Return the records that make `entry`."""
    records: list[Record] = []
    if entry.launch is not None:
        records.append(entry.launch)
    if entry.kill:
        records.append(KillAsked(task_id=task_id, reason=entry.blame))
    if entry.running is not None:
        records.append(Began(task_id=task_id, running=entry.running))
    if entry.exit is not None:
        records.append(Ended(task_id=task_id, exit=entry.exit))
    return records
