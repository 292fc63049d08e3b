"""Submissions that join a batch: each keeps what it runs, the batch is listed as one."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from hakuriver.errors import InvalidRequest
from hakuriver.host.keys import RequestKey
from hakuriver.host.store import changes, queries
from hakuriver.host.store.models import Batch
from hakuriver.model.messages import Acknowledge, Kill
from hakuriver.model.submission import SubmitRequest
from hakuriver.model.tasks import TaskSpec, TaskState
from hakuriver.model.views import MASK
from support.host_world import known, node_info, open_world
from unit.host.test_adoption import GOOD, told

if TYPE_CHECKING:
    from pathlib import Path

    from support.host_world import World

pytestmark = pytest.mark.asyncio

#: What a host before there were joined batches kept of the request below.
DIGEST = "3a5d0e79effbc7316aa9d0284efb8170ca07b13897500a7e6624a33423cc1b7b"


async def batch_of(world: World, *ids: int) -> str:
    (found,) = {(await world.view(task_id)).batch_id for task_id in ids}
    return found


async def submissions(world: World) -> set[int]:
    """Return the submissions of which the store knows."""
    return set(await world.store.read(lambda: [row.id for row in Batch.select()]))


async def test_what_joins_is_listed_with_the_batch_and_runs_its_own(world: World) -> None:
    await world.join("n", node_info(range(8)))
    first = await world.submit("n", "n", arguments=["one"])
    batch = await batch_of(world, *first)
    second = await world.submit("n", arguments=["two"], batch_id=batch, name="other")
    third = await world.submit("n", script="print(3)", batch_id=batch)
    assert await batch_of(world, *first, *second, *third) == batch
    listed = await world.store.read(queries.tasks, batch=int(batch), limit=9)
    assert [record.id for record in listed] == [*third, *second, *first[::-1]]
    assert [record.spec.arguments for record in listed] == [(), ("two",), ("one",), ("one",)]
    place = (await world.record(second[0])).placement
    assert (place.batch_index, place.batch_size) == (0, 1)
    launch = await world.cluster.launch_message(await world.record(third[0]))
    assert launch.spec.script == b"print(3)"
    # Nodes name the batch to the task.
    assert str(launch.placement.batch) == batch
    count, alive = await world.cluster.batch(int(batch))
    assert (count, [record.id for record in alive]) == (4, [*first, *second, *third])
    await world.finish(first[0])
    count, alive = await world.cluster.batch(int(batch))
    assert (count, [record.id for record in alive]) == (4, [first[1], *second, *third])


@pytest.mark.parametrize("case", ["another's", "none", "a task's"])
async def test_nobody_joins_what_is_not_his(world: World, case: str) -> None:
    await world.join("n", node_info(range(2)))
    (task_id,) = await world.submit("n")
    batch = await batch_of(world, task_id)
    wanted = {"another's": batch, "none": "5", "a task's": str(task_id)}[case]
    before = await submissions(world)
    with pytest.raises(InvalidRequest, match=f"no batch {wanted}") as caught:
        await world.ask("n", batch_id=wanted, owner="bob" if case == "another's" else "alice")
    assert caught.value.field == "batch_id"
    await world.settle()
    assert await submissions(world) == before
    assert set(world.cluster.tasks) == world.held() == {task_id}
    # What it would have had is free for the next.
    assert await world.submit("n", batch_id=batch)


@pytest.mark.parametrize("text", ["", "x", "-1", "9" * 19, "9" * 20, "1\n"])
async def test_what_is_no_id_is_refused_by_its_field(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        SubmitRequest(command="c", batch_id=text).to_spec()
    assert caught.value.field == "batch_id"


async def test_each_submission_loses_its_values_with_its_own_last_task(world: World) -> None:
    await world.join("n", node_info(range(8)))
    first = await world.submit("n", "n", env_vars={"A": "1"})
    batch = await batch_of(world, *first)
    (second,) = await world.submit("n", env_vars={"B": "2"}, batch_id=batch)
    (third,) = await world.submit("n", env_vars={"C": "3"}, batch_id=batch)

    async def values() -> list[str]:
        records = [await world.record(task_id) for task_id in (*first, second, third)]
        return ["".join(record.spec.env_vars.values()) for record in records]

    await world.finish(second)
    assert await values() == ["1", "1", MASK, "3"]
    await world.finish(first[0])
    assert await values() == ["1", "1", MASK, "3"]
    await world.finish(first[1])
    assert await values() == [MASK, MASK, MASK, "3"]


@pytest.mark.parametrize("joined", [False, True])
async def test_a_made_up_place_erases_no_values_that_others_wait_for(
    world: World, *, joined: bool
) -> None:
    """A node that has one task of a submission may tell of another, under its id in either way."""
    await world.join("n", node_info(range(1)))
    batch = await batch_of(world, *await world.submit("n")) if joined else None
    first, second = await world.submit("n", "n", env_vars={"A": "1"}, batch_id=batch)
    record = await world.record(first)
    its = record.placement.batch_id
    place = msgspec.structs.replace(record.placement, joined_id=its if joined else None)
    lie = msgspec.structs.replace(known(record, at=1.0, end=GOOD), task_id=9, placement=place)
    await world.exchange("n", [lie])
    assert await world.status(9) is TaskState.COMPLETED
    assert (await world.record(second)).spec.env_vars == {"A": "1"}


async def test_a_batch_lasts_as_long_as_one_of_its_tasks(world: World) -> None:
    await world.join("n", node_info(range(8)))
    (first,) = await world.submit("n")
    batch = await batch_of(world, first)
    (second,) = await world.submit("n", batch_id=batch)
    (third,) = await world.submit("n", batch_id=batch)
    for task_id in (first, second, third):
        await world.finish(task_id)
    own = {(await world.record(task_id)).placement.batch_id for task_id in (second, third)}
    await world.store.write(changes.delete_tasks, [first])
    assert await submissions(world) == {int(batch), *own}
    await world.store.write(changes.delete_tasks, [second])
    (fourth,) = await world.submit("n", batch_id=batch)
    await world.finish(fourth)
    await world.store.write(changes.delete_tasks, [third, fourth])
    assert await submissions(world) == set()


async def test_what_began_a_batch_is_forgotten_with_its_own_tasks(world: World) -> None:
    """Its key would be answered with tasks that are gone, for which a client waits for ever."""
    await world.join("n", node_info(range(8)))
    fields: dict[str, Any] = {"script": "print(1)", "idempotency_key": "k"}
    reply = await world.ask("n", "n", **fields)
    first, other = map(int, reply.task_ids)
    batch = reply.batch_id
    (second,) = await world.submit("n", batch_id=batch)
    for task_id in (first, other, second):
        await world.finish(task_id)
    await world.store.write(changes.delete_tasks, [first])
    assert await world.ask("n", "n", **fields) == reply
    assert await world.store.read(queries.script_of, int(batch)) == b"print(1)"
    await world.store.write(changes.delete_tasks, [other])
    assert await world.store.read(queries.script_of, int(batch)) is None
    again = await world.ask("n", "n", **fields)
    assert not {*again.task_ids} & {*reply.task_ids}
    # Of what is left nothing is amiss: it is listed, joined, told of again, and goes in the end.
    (third,) = await world.submit("n", batch_id=batch)
    assert await batch_of(world, second, third) == batch
    late = told(other, batch_id=int(batch), end=GOOD)
    await world.join("m", uid="m", told=[late])
    assert await batch_of(world, second, other) == batch
    await world.finish(third)
    await world.store.write(changes.delete_tasks, [second, other, third])
    assert await submissions(world) == {int(again.batch_id)}


async def test_the_same_key_is_the_same_work_in_whatever_batch(world: World) -> None:
    await world.join("n", node_info(range(8)))
    first = await world.ask("n", idempotency_key="a")
    second = await world.ask("n", idempotency_key="b", batch_id=first.batch_id)
    for batch_id in (None, first.batch_id, "5"):
        assert await world.ask("n", idempotency_key="b", batch_id=batch_id) == second


async def test_a_key_of_an_older_host_is_known_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.join("n")
    digests: list[str] = []
    digest = RequestKey._digest

    def noted(key: RequestKey) -> bytes:
        digests.append(digest(key).hex())
        return digest(key)

    monkeypatch.setattr(RequestKey, "_digest", noted)
    fields: dict[str, Any] = {"command": "echo", "arguments": ["é"], "env_vars": {"A": "1"}}
    await world.ask("n", idempotency_key="k", **fields)
    assert digests == [DIGEST]
    assert len(DIGEST) == len(hashlib.sha256().hexdigest())


async def test_a_host_with_a_new_database_takes_them_in_again(world: World, tmp_path: Path) -> None:
    """In whatever order they are told, and whether or not the one that began it is there."""
    script = TaskSpec(command="", script=b"print(2)", env_vars={"K": "v"})
    second = told(102, spec=script, batch_id=90, joined_id=100)
    third = told(103, batch_id=91, joined_id=100, end=GOOD)
    await world.join("n", told=[second, third])
    assert await batch_of(world, 102, 103) == "100"
    assert await world.store.read(queries.script_of, 90) == b"print(2)"
    assert await world.store.read(queries.script_of, 100) is None
    assert (await world.record(102)).placement == second.placement
    await world.join("m", uid="m", told=[told(101)])
    assert await batch_of(world, 101, 102) == "100"
    path = tmp_path / "other.db"
    async with open_world(path) as other:
        await other.join("m", uid="m", told=[told(101)])
        link = await other.join("n", told=[second, third])
        assert link.ids(Acknowledge) == [103]
        assert await batch_of(other, 101, 102, 103) == "100"
        assert other.cluster.ids.next() > 103
        assert (await other.record(101)).spec.command == "c"
        assert (await other.record(102)).spec.command == ""


@pytest.mark.parametrize("lie", ["batch_id", "joined_id"])
async def test_a_waiting_task_is_not_claimed_under_a_place_made_up(world: World, lie: str) -> None:
    await world.join("m", node_info([0]), uid="m")
    _, waiting = await world.submit() + await world.submit(arguments=["secret"])
    record = await world.record(waiting)
    place = msgspec.structs.replace(record.placement, **{lie: 5})
    guess = msgspec.structs.replace(
        known(record, at=1.0), spec=TaskSpec(command="true"), placement=place
    )
    link = await world.join("n", node_info([1]), told=[guess], uid="n")
    assert link.ids(Kill) == [waiting]
    # It is given to the node as to any other, not because that one said so.
    assert await world.status(waiting) is TaskState.ASSIGNING
    assert world.launches("n") == [waiting]
