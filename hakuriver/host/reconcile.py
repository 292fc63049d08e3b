"""What a runner's first exchange means for each task, theirs and ours compared. Pure.

`docs/reliability.md` has the same as a table.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

from hakuriver._version import __version__
from hakuriver.model.messages import (
    MAX_FRAME,
    OLDEST_PROTOCOL,
    PROTOCOL,
    Acknowledge,
    Kill,
    Refuse,
)
from hakuriver.model.tasks import TaskState
from hakuriver.model.views import MASK

if TYPE_CHECKING:
    from hakuriver.host.records import TaskRecord
    from hakuriver.model.messages import Known
    from hakuriver.model.tasks import TaskSpec


class Standing(StrEnum):
    """How a task that a runner tells of stands in the host's store."""

    #: Nobody knows it here: the store is younger than the task.
    UNKNOWN = "unknown"
    #: It waits here for this node, or for any: the store is an old copy.
    WAITING = "waiting"
    #: It was given to this node.
    OWN = "own"
    #: It is another node's.
    FOREIGN = "foreign"


class Untold(StrEnum):
    """What becomes of a task of a node whose runner does not tell of it."""

    #: It waits, or has ended: no business of the exchange.
    LEAVE = "leave"
    #: It ran, and the runner no longer knows it.
    LOSE = "lose"
    #: Its launch was lost on the way.
    LAUNCH = "launch"
    #: It is to end, and its launch may be on its way still: only the runner can tell.
    KILL = "kill"


def standing(record: TaskRecord | None, name: str) -> Standing:
    """Return how the task of `record` stands to the node `name`; None is an unknown task."""
    if record is None:
        return Standing.UNKNOWN
    if record.status is TaskState.PENDING and record.node in (None, name):
        return Standing.WAITING
    return Standing.OWN if record.node == name else Standing.FOREIGN


def must_end(record: TaskRecord, known: Known) -> bool:
    """Whether a task that runs on its node has to end there.

    It does when somebody asked for that, and when it ended here for certain, in a store that is
    an old copy.
    """
    if known.exit is not None:
        return False
    return record.kill_requested or (record.is_final and record.status is not TaskState.LOST)


def disowned(known: Known) -> Kill | Acknowledge:
    """Return what a runner is told of a task that is not its own: it must run once."""
    if known.exit is None:
        return Kill(task_id=known.task_id)
    return Acknowledge(task_id=known.task_id)


def untold(record: TaskRecord) -> Untold:
    """Return what becomes of a task of the node that its runner did not tell of."""
    if record.status is TaskState.RUNNING:
        return Untold.LOSE
    if record.status is not TaskState.ASSIGNING:
        return Untold.LEAVE
    return Untold.KILL if record.kill_requested else Untold.LAUNCH


def is_same_work(told: TaskSpec, spec: TaskSpec, script: bytes | None) -> bool:
    """Whether a runner tells of the very work that the store has of a submission.

    Whoever has not been given a task cannot know it: so nobody comes by others' tasks, or by the
    script and the variables of others' submissions, through an id alone. Values that the store has
    erased cannot be compared; a script that fits in no frame is told as an empty one.
    """
    if spec.env_vars and set(spec.env_vars.values()) == {MASK}:
        told = msgspec.structs.replace(told, env_vars=dict.fromkeys(told.env_vars, MASK))
    if msgspec.structs.replace(told, script=None) != spec:
        return False
    is_too_large = script is not None and len(script) > MAX_FRAME // 2
    return told.script == script or (is_too_large and told.script == b"")


def refusal_of(protocol: int, version: str) -> Refuse | None:
    """Return why a runner of this protocol and version cannot be served, None if it can."""
    if OLDEST_PROTOCOL <= protocol <= PROTOCOL:
        return None
    spoken = f"{OLDEST_PROTOCOL} to {PROTOCOL}"
    words = (
        f"the runner is hakuriver-jupyter {version} and speaks protocol {protocol}, the host is "
        f"{__version__} and speaks {spoken}"
    )
    if protocol > PROTOCOL:
        # Not for good: when the host has been upgraded, the runner links up by itself.
        return Refuse(reason=f"{words}; upgrade the host: it must be as new as its runners")
    return Refuse(
        reason=f"{words}; install hakuriver-jupyter {__version__} for the runner and restart it "
        "(tasks go on meanwhile)",
        final=True,
    )
