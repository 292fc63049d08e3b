"""A task once more: what the second one has of the first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from hakuriver.errors import Conflict, InvalidRequest, NotFound, SubmissionRefused
from hakuriver.host.rerun import rerun_request
from hakuriver.host.submission import Submission
from hakuriver.model.messages import Launch
from hakuriver.model.submission import RerunRequest
from hakuriver.model.tasks import TaskState
from support.host_world import node_info

if TYPE_CHECKING:
    from support.host_world import World

pytestmark = pytest.mark.asyncio

COMPLETED, FAILED, KILLED = TaskState.COMPLETED, TaskState.FAILED, TaskState.KILLED
INFO = node_info(range(4), numa={"0": [0, 1], "1": [2, 3]})


async def rerun(world: World, task_id: int, **wish: Any) -> int:
    record = await world.cluster.get(task_id)
    asked = RerunRequest(**wish)
    request = await rerun_request(world.cluster, record, asked)
    again = Submission(world.cluster, request, "bob", retry_of=record.id)
    reply = await again.submit()
    await world.settle()
    (created,) = reply.task_ids
    return int(created)


async def test_a_task_is_repeated_with_all_that_it_had(world: World) -> None:
    link = await world.join("n", INFO)
    (task,) = await world.submit(
        "n:1",
        arguments=["", "a b", "é\n", "$HOME"],
        required_cores=2,
        required_memory_bytes=1 << 20,
        time_limit_seconds=2.5,
        working_directory="/w",
        name="train",
    )
    await world.finish(task, status=FAILED, exit_code=3)
    again = await rerun(world, task)
    one, two = await world.record(task), await world.record(again)
    assert two.spec == one.spec
    assert (two.node, two.placement.numa_node, two.origin.targeted) == ("n", 1, True)
    assert (two.origin.retry_of, two.origin.owner) == (task, "bob")
    assert two.placement.batch_id != one.placement.batch_id
    assert (two.placement.batch_index, two.placement.batch_size) == (0, 1)
    assert (await world.view(again)).retry_of == str(task)
    assert link.of(Launch)[-1].origin.retry_of == task
    # The first stays as it was, and a second repetition names the second.
    assert one.status is FAILED
    await world.finish(again)
    third = await rerun(world, again)
    assert (await world.record(third)).origin.retry_of == again


async def test_a_script_is_repeated(world: World) -> None:
    link = await world.join()
    script = "#!/bin/sh\necho é\n"
    (task,) = await world.submit("n", script=script, interpreter=["sh", "-e"], arguments=["x"])
    await world.finish(task)
    await rerun(world, task)
    one, two = link.of(Launch)
    assert two.spec.script == one.spec.script == script.encode()
    assert two.spec == one.spec


async def test_bytes_that_are_no_text_are_repeated(world: World) -> None:
    link = await world.join()
    (task,) = await world.submit("n", command=None, script=None, script_base64="/wD+")
    await world.finish(task)
    await rerun(world, task)
    assert [launch.spec.script for launch in link.of(Launch)] == [b"\xff\0\xfe"] * 2


async def test_what_no_node_was_asked_for_is_picked_anew(world: World) -> None:
    await world.join("n", node_info([0]))
    (task,) = await world.submit()
    assert (await world.record(task)).node == "n"
    await world.finish(task)
    await world.leave()
    await world.join("m", uid="m")
    again = await rerun(world, task)
    record = await world.record(again)
    assert (record.node, record.origin.targeted) == ("m", False)


async def test_a_target_that_is_away_is_refused_by_name(world: World) -> None:
    await world.join("n")
    await world.join("m", uid="m")
    (task,) = await world.submit("n")
    await world.finish(task)
    await world.leave("n")
    with pytest.raises(SubmissionRefused, match="n is offline"):
        await rerun(world, task)


async def test_values_that_were_erased_are_asked_for(world: World) -> None:
    link = await world.join()
    (task,) = await world.submit("n", env_vars={"B": "2", "A": "secret"})
    await world.finish(task)
    with pytest.raises(InvalidRequest) as caught:
        await rerun(world, task)
    assert caught.value.field == "env_vars"
    assert "again: A, B" in caught.value.reason
    # Those that are still missing are asked for, by name.
    for some, missing in (({}, "again: A, B"), ({"A": "x", "C": "y"}, "again: B")):
        with pytest.raises(InvalidRequest, match=f"{missing}$"):
            await rerun(world, task, env_vars=some)
    await rerun(world, task, env_vars={"A": "new", "B": "", "C": "3"})
    assert link.of(Launch)[-1].spec.env_vars == {"A": "new", "B": "", "C": "3"}


async def test_values_that_are_there_yet_are_taken(world: World) -> None:
    link = await world.join("n", node_info([0]))
    first, _ = await world.submit("n", "n", env_vars={"A": "secret"})
    await world.finish(first)
    # Its sibling still needs them.
    again = await rerun(world, first)
    assert (await world.record(again)).spec.env_vars == {"A": "secret"}
    # What is given goes before what is known.
    other = await rerun(world, first, env_vars={"B": "2"})
    assert (await world.record(other)).spec.env_vars == {"A": "secret", "B": "2"}
    third = await rerun(world, first, env_vars={"A": "1"})
    assert (await world.record(third)).spec.env_vars == {"A": "1"}
    assert link.ids(Launch)[0] == first


async def test_a_task_without_variables_needs_none(world: World) -> None:
    await world.join()
    (task,) = await world.submit("n")
    await world.finish(task)
    again = await rerun(world, task, env_vars={"A": "1"})
    assert (await world.record(again)).spec.env_vars == {"A": "1"}


@pytest.mark.parametrize("state", [TaskState.PENDING, TaskState.ASSIGNING, TaskState.RUNNING])
async def test_what_has_not_ended_is_not_repeated(world: World, state: TaskState) -> None:
    await world.join("n", node_info([0]))
    first, second = await world.submit("n", "n")
    task = second if state is TaskState.PENDING else first
    if state is TaskState.RUNNING:
        await world.start(first)
    with pytest.raises(Conflict, match=f"is {state}"):
        await rerun(world, task)
    assert set(world.cluster.tasks) == {first, second}


async def test_what_was_killed_or_lost_may_be_repeated(world: World) -> None:
    await world.join("n", node_info([0]))
    first, second = await world.submit("n", "n")
    await world.cluster.kill(second)
    await world.start(first)
    await world.lose(first)
    await world.join("n", node_info([0]))
    again = [await rerun(world, task) for task in (first, second)]
    assert [await world.status(task) for task in again] == [
        TaskState.ASSIGNING,
        TaskState.PENDING,
    ]


async def test_a_task_that_never_had_a_node_may_be_repeated(world: World) -> None:
    await world.join("n", node_info([0]))
    await world.submit("n")
    (task,) = await world.submit()
    await world.cluster.kill(task)
    assert (await world.record(task)).node is None
    again = await rerun(world, task)
    assert (await world.record(again)).origin.targeted is False


async def test_a_repetition_may_refuse_to_wait_and_has_a_key_of_its_own(world: World) -> None:
    await world.join("n", node_info([0]))
    (task,) = await world.submit("n")
    await world.finish(task)
    again = await rerun(world, task, queue=False, idempotency_key="k2")
    assert await rerun(world, task, queue=False, idempotency_key="k2") == again
    with pytest.raises(SubmissionRefused, match="no room now"):
        await rerun(world, task, queue=False, idempotency_key="k3")
    with pytest.raises(Conflict):
        await rerun(world, task, idempotency_key="k2")
    assert set(world.cluster.tasks) == {again}


async def test_what_was_deleted_cannot_be_repeated(world: World) -> None:
    with pytest.raises(NotFound):
        await rerun(world, 5)


async def test_the_request_is_the_one_that_would_have_made_it(world: World) -> None:
    await world.join("n", INFO)
    fields: dict[str, Any] = {
        "command": "c",
        "arguments": ["a"],
        "required_cores": 0,
        "required_memory_bytes": 7,
        "working_directory": "/w",
        "time_limit_seconds": 1.5,
        "name": "x",
    }
    (task,) = await world.submit("n:0", **fields)
    await world.cluster.kill(task)
    await world.finish(task, status=KILLED)
    record = await world.record(task)
    request = await rerun_request(world.cluster, record, RerunRequest())
    built = msgspec.structs.asdict(request)
    assert {key: built[key] for key in fields} == fields
    assert built["targets"] == ["n:0"]
