"""What the host makes of each task at a runner's first exchange, as tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from hakuriver.host.reconcile import (
    Standing,
    Untold,
    disowned,
    is_same_work,
    must_end,
    standing,
    untold,
)
from hakuriver.model.messages import MAX_FRAME, Acknowledge, Kill
from hakuriver.model.tasks import FINAL, Exit, TaskSpec, TaskState
from hakuriver.model.views import MASK
from support.host_rows import record_of
from support.host_world import known

if TYPE_CHECKING:
    from hakuriver.host.records import TaskRecord

PENDING, ASSIGNING, RUNNING = TaskState.PENDING, TaskState.ASSIGNING, TaskState.RUNNING
COMPLETED, LOST = TaskState.COMPLETED, TaskState.LOST
END = Exit(status=COMPLETED, exit_code=0, completed_at=1.0)


def record(state: TaskState, node: str | None = "n", *, kill: bool = False) -> TaskRecord:
    return msgspec.structs.replace(record_of(1, node=node, status=state), kill_requested=kill)


@pytest.mark.parametrize("state", TaskState)
@pytest.mark.parametrize("node", ["n", "other", None])
def test_how_a_task_stands(state: TaskState, node: str | None) -> None:
    expected = {
        "n": Standing.WAITING if state is PENDING else Standing.OWN,
        "other": Standing.FOREIGN,
        None: Standing.WAITING if state is PENDING else Standing.FOREIGN,
    }
    assert standing(record(state, node), "n") is expected[node]


def test_what_no_store_knows_is_unknown() -> None:
    assert standing(None, "n") is Standing.UNKNOWN


@pytest.mark.parametrize("state", TaskState)
@pytest.mark.parametrize("kill", [False, True])
def test_what_must_end_there(state: TaskState, *, kill: bool) -> None:
    ours = record(state, kill=kill)
    assert must_end(ours, known(ours, at=1.0)) == (kill or state in FINAL - {LOST})
    assert not must_end(ours, known(ours, at=1.0, end=END))


@pytest.mark.parametrize("state", TaskState)
@pytest.mark.parametrize("kill", [False, True])
def test_what_becomes_of_what_is_not_told(state: TaskState, *, kill: bool) -> None:
    expected = {RUNNING: Untold.LOSE, ASSIGNING: Untold.KILL if kill else Untold.LAUNCH}
    assert untold(record(state, kill=kill)) is expected.get(state, Untold.LEAVE)


def test_what_is_anothers_ends_or_is_forgotten() -> None:
    ours = record(RUNNING, "other")
    assert isinstance(disowned(known(ours, at=1.0)), Kill)
    assert isinstance(disowned(known(ours, at=1.0, end=END)), Acknowledge)


SPEC = TaskSpec(command="c", arguments=("a",), env_vars={"K": "v"}, required_cores=2)
SCRIPTED = TaskSpec(command="", interpreter=("sh",))


@pytest.mark.parametrize(
    ("told", "stored", "script", "same"),
    [
        (SPEC, SPEC, None, True),
        (msgspec.structs.replace(SPEC, arguments=()), SPEC, None, False),
        (msgspec.structs.replace(SPEC, env_vars={"K": "w"}), SPEC, None, False),
        (msgspec.structs.replace(SPEC, required_cores=1), SPEC, None, False),
        # Once all of a batch have ended, the values of its variables are erased.
        (SPEC, msgspec.structs.replace(SPEC, env_vars={"K": MASK}), None, True),
        (SPEC, msgspec.structs.replace(SPEC, env_vars={"L": MASK}), None, False),
        (msgspec.structs.replace(SCRIPTED, script=b"x"), SCRIPTED, b"x", True),
        (msgspec.structs.replace(SCRIPTED, script=b"y"), SCRIPTED, b"x", False),
        (msgspec.structs.replace(SCRIPTED, script=b""), SCRIPTED, b"x", False),
        (SCRIPTED, SCRIPTED, b"x", False),
        # What fits in no frame is told as an empty one.
        (msgspec.structs.replace(SCRIPTED, script=b""), SCRIPTED, b"x" * MAX_FRAME, True),
        (SCRIPTED, SCRIPTED, b"x" * MAX_FRAME, False),
    ],
)
def test_whoever_was_given_a_task_knows_it(
    told: TaskSpec, stored: TaskSpec, script: bytes | None, *, same: bool
) -> None:
    assert is_same_work(told, stored, script) == same
