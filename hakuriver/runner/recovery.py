"""What became of a task while no runner watched: journal, exit record and keeper compared. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from hakuriver.model.tasks import MAX_REASON, Exit, TaskState, Usage
from hakuriver.runner.exits import REBOOTED, decide

if TYPE_CHECKING:
    from hakuriver.runner.exits import ExitRecord
    from hakuriver.runner.records import Entry


def judge(entry: Entry, record: ExitRecord | None, *, boot_id: str, now: float) -> Exit:
    """Return how a task ended that nobody supervises any more."""
    if record is not None and (record.sure or _is_of(entry, boot_id)):
        return decide(record)
    if entry.launch is None:
        return never_started(now)
    if entry.launch.boot_id != boot_id:
        return _lost(REBOOTED, now)
    if entry.running is not None:
        return _lost("exit record missing", now)
    if entry.kill:
        return never_started(now)
    return Exit(status=TaskState.FAILED, reason="start interrupted", completed_at=now)


def _is_of(entry: Entry, boot_id: str) -> bool:
    """Whether the task was launched during this boot; else the last one's end may have ended it."""
    return entry.launch is None or entry.launch.boot_id == boot_id


def orphaned(record: ExitRecord | None, *, now: float) -> Exit:
    """Return how a task ended whose keeper died."""
    if record is not None:
        return decide(record)
    return _lost("keeper ended, the exit of this task is unknown", now)


def never_started(now: float) -> Exit:
    """Return the end of a task that was killed before it could start."""
    return Exit(status=TaskState.KILLED, reason="killed before it started", completed_at=now)


def could_not_start(reason: str, now: float) -> Exit:
    """Return the end of a task that this runner could not start."""
    # A path may hold bytes that no message can carry.
    told = reason.encode("utf-8", "backslashreplace").decode()
    return Exit(status=TaskState.FAILED, reason=told, completed_at=now)


def blamed(end: Exit, entry: Entry) -> Exit:
    """Return `end` as a failure with its reason, if the runner itself ended the task."""
    if entry.blame is None or end.status is not TaskState.KILLED:
        return end
    return msgspec.structs.replace(end, status=TaskState.FAILED, reason=entry.blame)


def tellable(end: Exit) -> Exit:
    """Return `end` with a reason that a message can carry: its beginning and its last words."""
    reason = end.reason
    if reason is None or len(reason) <= MAX_REASON:
        return end
    half = MAX_REASON // 2 - 2
    return msgspec.structs.replace(end, reason=f"{reason[:half]} … {reason[-half:]}"[:MAX_REASON])


def with_usage(end: Exit, seen: Usage | None) -> Exit:
    """Return `end` with what the task was seen to use, where its record does not say it."""
    if seen is None:
        return end
    told = end.usage or Usage()
    known = {
        name: value for name in seen.__struct_fields__ if (value := getattr(told, name)) is not None
    }
    return msgspec.structs.replace(end, usage=msgspec.structs.replace(seen, **known))


def _lost(reason: str, now: float) -> Exit:
    return Exit(status=TaskState.LOST, reason=reason, completed_at=now)
