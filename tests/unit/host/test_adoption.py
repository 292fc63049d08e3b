"""Tasks that only their node knows: this store is younger than they are."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from hakuriver.host.store import queries
from hakuriver.model.messages import Acknowledge, Kill, Known, Launch
from hakuriver.model.tasks import Exit, Origin, Placement, TaskSpec, TaskState, Usage
from hakuriver.model.views import Event
from support.host_world import Commits, known, node_info, open_world

if TYPE_CHECKING:
    from pathlib import Path

    from support.host_world import World

pytestmark = pytest.mark.asyncio

ASSIGNING, RUNNING, COMPLETED = TaskState.ASSIGNING, TaskState.RUNNING, TaskState.COMPLETED
KILLED, LOST, PENDING = TaskState.KILLED, TaskState.LOST, TaskState.PENDING
GOOD = Exit(status=COMPLETED, exit_code=0, completed_at=9.0, usage=Usage(peak_memory_bytes=1 << 20))
ORIGIN = Origin(owner="bob", submitted_at=1.25, targeted=True, retry_of=77)
SPEC = TaskSpec(command="c", arguments=("a",), env_vars={"K": "secret"}, required_memory_bytes=5)


def told(
    task_id: int,
    *,
    index: int = 0,
    size: int = 1,
    at: float | None = 1.0,
    end: Exit | None = None,
    spec: TaskSpec = SPEC,
    **placement: Any,
) -> Known:
    """Return what a runner tells of a task that no store knows."""
    place = {"batch_id": 100, "batch_index": index, "batch_size": size, "cpus": (1,), **placement}
    return Known(
        task_id=task_id,
        spec=spec,
        placement=Placement(**place),
        origin=ORIGIN,
        started_at=at,
        exit=end,
        stdout_path="/o" if at else "",
        stderr_path="/e" if at else "",
    )


async def test_a_running_task_is_adopted_whole(world: World) -> None:
    link = await world.join(told=[told(101, numa_node=None)])
    assert await world.status(101) is RUNNING
    record = await world.record(101)
    assert record.spec == SPEC
    assert record.origin == ORIGIN
    assert record.placement == Placement(batch_id=100, batch_index=0, batch_size=1, cpus=(1,))
    assert (record.node, record.started_at, record.stdout_path) == ("n", 1.0, "/o")
    assert world.free() == {0}
    assert world.cluster.nodes.views()[0].memory_in_use_bytes == 5
    # It runs: nothing is sent to it.
    assert link.sent == []
    view = await world.view(101)
    assert (view.owner, view.retry_of, view.env_vars) == ("bob", "77", {"K": "***"})
    await world.finish(101, usage=Usage(peak_memory_bytes=7))
    assert link.ids(Acknowledge) == [101]
    assert world.free() == {0, 1}
    assert (await world.record(101)).usage == Usage(peak_memory_bytes=7)


async def test_an_ended_task_is_adopted_acknowledged_and_holds_nothing(world: World) -> None:
    link = await world.join(told=[told(101, end=GOOD)])
    assert await world.status(101) is COMPLETED
    record = await world.record(101)
    assert (record.exit_code, record.completed_at, record.usage) == (0, 9.0, GOOD.usage)
    assert record.started_at == 1.0
    # Its values are of no use any more.
    assert record.spec.env_vars == {"K": "***"}
    assert link.ids(Acknowledge) == [101]
    assert world.free() == {0, 1}
    assert world.cluster.tasks == {}
    assert world.held() == set()


async def test_a_task_that_is_journaled_alone_stays_assigned(world: World) -> None:
    link = await world.join(told=[told(101, at=None)])
    assert await world.status(101) is ASSIGNING
    assert world.free() == {0}
    # The runner has its launch; a second one would say nothing new.
    assert link.of(Launch) == []
    await world.start(101)
    assert await world.status(101) is RUNNING


async def test_a_start_that_was_interrupted_is_told_as_such(world: World) -> None:
    end = Exit(status=TaskState.FAILED, reason="start interrupted", completed_at=9.0)
    link = await world.join(told=[told(101, at=None, end=end)])
    record = await world.record(101)
    assert (record.status, record.started_at) == (TaskState.FAILED, None)
    assert record.reason == "start interrupted"
    assert link.ids(Acknowledge) == [101]


async def test_siblings_on_two_nodes_come_together_again(world: World) -> None:
    script = msgspec.structs.replace(SPEC, command="", script=b"print(1)")
    one = told(101, index=0, size=3, spec=script)
    two = told(102, index=2, size=3, spec=script, end=GOOD)
    await world.join("n", told=[one])
    await world.join("m", uid="m", told=[two])
    batch = (await world.store.read(queries.tasks, batch=100, limit=9))[::-1]
    assert [(task.id, task.node, task.status) for task in batch] == [
        (101, "n", RUNNING),
        (102, "m", COMPLETED),
    ]
    assert [task.placement.batch_index for task in batch] == [0, 2]
    # The script travels for them all, and lies apart from what lists read.
    assert await world.store.read(queries.script_of, 100) == b"print(1)"
    assert [task.spec.script for task in batch] == [None, None]
    # The one that runs still needs the values that they share.
    assert (await world.record(101)).spec.env_vars == {"K": "secret"}
    await world.finish(101)
    assert (await world.record(102)).spec.env_vars == {"K": "***"}


async def test_what_was_adopted_is_known_from_then_on(tmp_path: Path) -> None:
    path = tmp_path / "host.db"
    async with open_world(path) as world:
        await world.join(told=[told(101), told(102, end=GOOD, index=1, size=2)])
    async with open_world(path) as world:
        assert set(world.cluster.tasks) == {101}
        assert world.free() == {0}
        before = world.store.rev
        link = await world.join(told=[told(101), told(102, end=GOOD)])
        assert link.ids(Acknowledge) == [102]
        assert await world.status(101) is RUNNING
        assert world.free() == {0}
        assert (await world.record(102)).rev <= before


async def test_a_task_that_is_told_twice_is_adopted_once(world: World) -> None:
    link = await world.join(told=[told(101), told(101, end=GOOD), told(101)])
    assert await world.status(101) is COMPLETED
    assert link.ids(Acknowledge) == [101]
    assert world.held() == set()


async def test_new_ids_are_larger_than_those_adopted(world: World) -> None:
    ahead = world.cluster.ids.next() + (1 << 32)
    await world.join(told=[told(ahead, batch_id=ahead + 1)])
    assert world.cluster.ids.next() > ahead + 1


async def test_a_kill_reaches_what_was_adopted(world: World) -> None:
    link = await world.join(told=[told(101)])
    await world.cluster.kill(101)
    assert link.ids(Kill) == [101]
    await world.finish(101, status=KILLED, exit_code=-15)
    assert await world.status(101) is KILLED


async def test_an_adopted_task_is_lost_and_found_like_any_other(world: World) -> None:
    await world.join(told=[told(101)])
    await world.lose(101)
    assert await world.status(101) is LOST
    await world.join(told=[told(101)])
    assert await world.status(101) is RUNNING


async def test_followers_hear_of_what_was_adopted(world: World) -> None:
    stream = world.cluster.feed.follow(None)
    await anext(stream)
    await world.join(told=[told(101)])
    lines = (await asyncio.wait_for(anext(stream), 30)).splitlines()
    events = [msgspec.json.decode(line, type=Event) for line in lines]
    found = [event.task.status for event in events if event.task]
    assert found == ["assigning", "running"]
    await stream.aclose()


async def test_a_target_that_was_asked_for_is_accounted_as_one(world: World) -> None:
    bound = told(101, numa_node=1, cpus=(2,))
    info = node_info(range(4), numa={"0": [0, 1], "1": [2, 3]})
    await world.join("n", info, told=[bound])
    use = world.cluster.nodes.views()[0].numa_use
    assert (use["1"].memory_in_use_bytes, use["1"].cores_in_use) == (5, 1)
    assert (use["0"].memory_in_use_bytes, use["0"].cores_in_use) == (0, 0)


async def test_a_failing_store_adopts_at_the_next_exchange(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.join()
    await world.leave()
    commits = Commits(world.store, monkeypatch)
    link, _ = await world.link("n")
    commits.failing = 2
    with pytest.raises(Exception, match="full"):
        await world.exchange("n", [told(101)])
    assert world.cluster.tasks == {}
    assert world.free() == {0, 1}
    assert link.sent == []
    await world.join(told=[told(101)])
    assert await world.status(101) is RUNNING


# -- what waits here, and runs there: the store is an old copy -----------------------------


@pytest.mark.parametrize("targets", [(), ("n",)], ids=["anywhere", "targeted"])
async def test_a_waiting_task_that_its_node_has_already_is_claimed(
    world: World, targets: tuple[str, ...]
) -> None:
    await world.join("n", node_info([0, 1]))
    busy = await world.submit("n", "n")
    (waiting,) = await world.submit(*targets)
    (behind,) = await world.submit("n")
    record = await world.record(waiting)
    assert record.status is PENDING
    await world.leave()
    place = msgspec.structs.replace(record.placement, cpus=(1,))
    known_there = msgspec.structs.replace(known(record, at=1.0), placement=place)
    others = [known(await world.record(task), at=1.0) for task in busy]
    link = await world.join("n", node_info([0, 1]), told=[*others, known_there])
    assert await world.status(waiting) is RUNNING
    found = await world.record(waiting)
    assert (found.node, found.placement.cpus, found.started_at) == ("n", (1,), 1.0)
    assert world.cluster.scheduler.position(waiting) is None
    assert world.cluster.scheduler.position(behind) == 0
    assert waiting in world.held()
    # It runs: it is never launched, also when room comes.
    for task in busy:
        await world.finish(task)
    assert link.ids(Launch) == [behind]
    await world.finish(waiting)
    assert await world.status(waiting) is COMPLETED


async def test_a_waiting_task_that_ended_already_is_claimed_and_ends(world: World) -> None:
    await world.join("n", node_info([0]))
    busy, waiting = await world.submit("n", "n")
    record, running = await world.record(waiting), await world.record(busy)
    await world.leave()
    link = await world.join(
        "n", node_info([0]), told=[known(record, at=1.0, end=GOOD), known(running, at=1.0)]
    )
    assert await world.status(waiting) is COMPLETED
    assert link.ids(Acknowledge) == [waiting]
    await world.finish(busy)
    assert link.of(Launch) == []
    assert world.free() == {0}


async def test_a_task_that_waits_for_another_node_is_not_claimed(world: World) -> None:
    await world.join("m", node_info([0]), uid="m")
    await world.join("n", node_info([0]))
    first, waiting = await world.submit("m", "m")
    record = await world.record(waiting)
    await world.leave("n")
    link = await world.join("n", node_info([0]), told=[known(record, at=1.0)])
    assert await world.record(waiting) == record
    assert world.cluster.scheduler.position(waiting) == 0
    # It must run once: what runs in the wrong place is ended there.
    assert [type(message) for message in link.sent] == [Kill]
    assert link.ids(Kill) == [waiting]
    await world.finish(first, node="m")
    assert waiting in world.launches("m")


async def test_what_runs_there_and_was_killed_while_it_waited_here_is_ended(world: World) -> None:
    await world.join("n", node_info([0]))
    _, waiting = await world.submit("n", "n")
    record = await world.record(waiting)
    await world.cluster.kill(waiting)
    await world.leave()
    link = await world.join("n", node_info([0]), told=[known(record, at=1.0)])
    # It is told as killed, and a final state never changes.
    assert await world.status(waiting) is KILLED
    assert waiting not in world.held()
    assert link.ids(Kill) == [waiting]
