from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
import peewee
import pytest

from hakuriver.errors import Conflict, NotFound, StoreError
from hakuriver.host import cluster as module
from hakuriver.model.messages import Acknowledge, Kill, Launch
from hakuriver.model.tasks import Exit, TaskState
from hakuriver.model.views import Event
from support.host_rows import move
from support.host_world import completed, known, node_info, open_world, started, until

if TYPE_CHECKING:
    from pathlib import Path

    from support.host_world import World

pytestmark = pytest.mark.asyncio

ASSIGNING, RUNNING, COMPLETED = TaskState.ASSIGNING, TaskState.RUNNING, TaskState.COMPLETED
KILLED, PENDING = TaskState.KILLED, TaskState.PENDING


class Fault:
    """Lets the store's commits fail for as long as it is on."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        self.on = False
        commit = world.store._database.commit

        def maybe() -> None:
            if self.on:
                raise peewee.OperationalError("database or disk is full")
            commit()

        monkeypatch.setattr(world.store._database, "commit", maybe)
        monkeypatch.setattr(module, "_STORE_PAUSE", 0.01, raising=False)


# -- one life -----------------------------------------------------------------------------


async def test_a_task_from_submission_to_its_end(world: World) -> None:
    link = await world.join()
    task = (await world.submit("n", arguments=["a"], env_vars={"K": "v"}))[0]
    launch = link.of(Launch)[0]
    assert (launch.task_id, launch.spec.arguments, launch.spec.env_vars) == (
        task,
        ("a",),
        {"K": "v"},
    )
    assert launch.placement.cpus == (0,)
    assert await world.status(task) is ASSIGNING
    await world.start(task)
    assert await world.status(task) is RUNNING
    assert world.free() == {1}
    await world.finish(task, exit_code=0)
    assert await world.status(task) is COMPLETED
    assert link.ids(Acknowledge) == [task]
    assert world.free() == {0, 1}
    assert (await world.view(task)).env_vars == {"K": "***"}


async def test_cores_are_counted_from_the_assignment_on(world: World) -> None:
    await world.join()
    tasks = await world.submit("n", "n", "n")
    assert [await world.status(task) for task in tasks] == [ASSIGNING, ASSIGNING, PENDING]
    view = world.cluster.nodes.views()[0]
    assert (view.total_cores, view.cores_in_use, view.available_cores) == (2, 2, 0)
    waiting = await world.view(tasks[2])
    assert waiting.queue_position == 0
    assert waiting.reason == "waits for 1 core on n (0 free)"
    await world.finish(tasks[0])
    assert await world.status(tasks[2]) is ASSIGNING
    assert world.launches() == tasks


async def test_a_script_goes_with_its_launch_whenever_that_is(world: World) -> None:
    await world.join("n", node_info([0]))
    tasks = await world.submit("n", "n", script="print(1)", interpreter=["python"])
    await world.finish(tasks[0])
    for launch in world.links["n"].of(Launch):
        assert launch.spec.script == b"print(1)"
        assert launch.spec.interpreter == ("python",)
    assert world.launches() == tasks


# -- ends ---------------------------------------------------------------------------------


async def test_an_end_that_is_told_again_is_acknowledged_again_and_counted_once(
    world: World,
) -> None:
    link = await world.join()
    task, other = await world.submit("n", "n")
    for _ in range(3):
        await world.finish(task)
    await world.finish(task, status=TaskState.FAILED, exit_code=1)
    assert await world.status(task) is COMPLETED
    assert link.ids(Acknowledge) == [task] * 4
    assert world.free() == {0}
    assert await world.status(other) is ASSIGNING


async def test_a_node_speaks_for_its_own_tasks_alone(world: World) -> None:
    await world.join("n")
    other = await world.join("m", uid="m")
    task = (await world.submit("n"))[0]
    await world.start(task, node="m")
    await world.finish(task, node="m")
    await world.finish(999, node="m")
    assert await world.status(task) is ASSIGNING
    assert not other.of(Acknowledge)


async def test_an_end_that_is_none_changes_nothing(world: World) -> None:
    link = await world.join()
    task = (await world.submit("n"))[0]
    await world.finish(task, status=RUNNING)
    assert await world.status(task) is ASSIGNING
    assert not link.of(Acknowledge)


async def test_a_start_after_the_end_changes_nothing(world: World) -> None:
    await world.join()
    task = (await world.submit("n"))[0]
    await world.finish(task)
    await world.start(task)
    assert await world.status(task) is COMPLETED
    assert world.free() == {0, 1}


# -- kills --------------------------------------------------------------------------------


async def test_a_queued_task_that_is_killed_never_runs(world: World) -> None:
    await world.join("n", node_info([0]))
    first, second = await world.submit("n", "n")
    await world.cluster.kill(second)
    assert await world.status(second) is KILLED
    await world.finish(first)
    assert world.launches() == [first]
    with pytest.raises(Conflict, match="already killed"):
        await world.cluster.kill(second)


async def test_a_running_task_is_killed_by_its_node(world: World) -> None:
    link = await world.join()
    task = (await world.submit("n"))[0]
    await world.start(task)
    await world.cluster.kill(task)
    assert await world.status(task) is RUNNING
    await world.cluster.kill(task)
    assert link.ids(Kill) == [task, task]
    end = Exit(status=KILLED, exit_code=-15, completed_at=2.0)
    await world.cluster.finished("n", completed(task, **msgspec.structs.asdict(end)))
    assert await world.status(task) is KILLED
    with pytest.raises(Conflict):
        await world.cluster.kill(task)


async def test_a_kill_at_the_moment_of_the_assignment_is_never_overtaken(world: World) -> None:
    link = await world.join("n", node_info([0]))
    first, second = await world.submit("n", "n")
    await asyncio.gather(world.cluster.finished("n", completed(first)), world.cluster.kill(second))
    await world.settle()
    state = await world.status(second)
    if state is KILLED:
        assert link.ids(Launch) == [first]
        assert world.free() == {0}
    else:
        assert state is ASSIGNING
        assert link.ids(Kill) == [second]


async def test_what_is_unknown_cannot_be_killed(world: World) -> None:
    with pytest.raises(NotFound):
        await world.cluster.kill(1)


# -- the store fails ----------------------------------------------------------------------


async def test_a_submission_that_cannot_be_stored_leaves_no_trace(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = await world.join()
    fault = Fault(world, monkeypatch)
    fault.on = True
    with pytest.raises(StoreError):
        await world.submit("n", "n", "n")
    assert world.free() == {0, 1}
    assert world.cluster.tasks == {}
    assert link.sent == []
    fault.on = False
    tasks = await world.submit("n", "n")
    assert world.launches() == tasks


async def test_an_assignment_that_cannot_be_stored_is_made_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.join("n", node_info([0]))
    first, second, third = await world.submit("n", "n", "n")
    fault = Fault(world, monkeypatch)
    assert await move(world.store, first, RUNNING) is not None
    world.cluster.scheduler.remove(first)
    fault.on = True
    world.cluster.schedule()
    await until(lambda: "waits" in (world.cluster.scheduler.waits_for(second) or ""))
    fault.on = False
    await until(lambda: second in world.launches(), what="the second task was never launched")
    await world.settle()
    assert world.launches() == [first, second]
    assert await world.status(third) is PENDING


async def test_what_cannot_be_stored_is_not_acknowledged(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = await world.join()
    task = (await world.submit("n"))[0]
    fault = Fault(world, monkeypatch)
    fault.on = True
    for word in (
        world.cluster.started("n", started(task)),
        world.cluster.finished("n", completed(task)),
    ):
        with pytest.raises(StoreError):
            await word
    with pytest.raises(StoreError):
        await world.cluster.kill(task)
    assert not link.of(Acknowledge)
    fault.on = False
    assert await world.status(task) is ASSIGNING
    await world.finish(task)
    assert link.ids(Acknowledge) == [task]


# -- a restart ----------------------------------------------------------------------------


async def test_queue_and_accounting_are_the_same_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "host.db"
    async with open_world(path) as world:
        await world.join("n", node_info(range(3)))
        tasks = await world.submit("n", "n")
        big = (await world.submit("n", required_cores=2))[0]
        last = (await world.submit("n"))[0]
        await world.start(tasks[0])
    async with open_world(path) as world:
        assert world.free() == {2}
        assert not world.cluster.nodes.online_link("n")
        assert [world.cluster.scheduler.position(task) for task in (big, last)] == [0, 1]
        fresh = world.cluster.ids.next()
        assert fresh > last
        told = [known(await world.record(tasks[0]), at=1.0)]
        link = await world.join("n", node_info(range(3)), told=told)
        assert link.ids(Launch) == [tasks[1]]
        await world.finish(tasks[1])
        assert link.ids(Launch) == [tasks[1], big]


# -- events -------------------------------------------------------------------------------


async def test_every_change_is_followed_by_an_event_in_order(world: World) -> None:
    began = world.store.rev
    stream = world.cluster.feed.follow(began)
    lines: list[Event] = []

    async def take(count: int) -> list[Event]:
        while len(lines) < count:
            chunk = await asyncio.wait_for(anext(stream), 30)
            lines.extend(msgspec.json.decode(part, type=Event) for part in chunk.splitlines())
        return lines

    assert (await take(1))[0] == Event(rev=began)
    await world.join("n", node_info([0]))
    first, second = await world.submit("n", "n")
    await world.start(first)
    await world.finish(first)
    await world.cluster.kill(second)
    await world.leave("n")
    told = (await take(9))[1:]
    revs = [event.rev for event in told]
    assert revs == sorted(revs)
    seen: dict[str, list[Any]] = {}
    for event in told:
        if event.task is not None:
            seen.setdefault(event.task.task_id, []).append(event.task.status)
        elif event.node is not None:
            seen.setdefault(event.node.hostname, []).append(event.node.status)
    assert seen[str(first)] == ["assigning", "running", "completed"]
    assert seen[str(second)][:2] == ["pending", "assigning"]
    assert seen["n"] == ["online", "offline"]
    await stream.aclose()


async def test_what_was_missed_is_replayed_from_the_store(tmp_path: Path) -> None:
    path = tmp_path / "host.db"
    async with open_world(path) as world:
        await world.join()
        before = world.store.rev
        task = (await world.submit("n"))[0]
    async with open_world(path) as world:
        stream = world.cluster.feed.follow(before)
        chunks = [await asyncio.wait_for(anext(stream), 30) for _ in range(2)]
        events = [msgspec.json.decode(line, type=Event) for line in b"".join(chunks).splitlines()]
        assert events[0].rev == before
        assert [event.task.task_id for event in events if event.task] == [str(task)]
        await stream.aclose()


async def test_whoever_knows_nothing_yet_is_told_all_that_there_is(tmp_path: Path) -> None:
    path = tmp_path / "host.db"
    async with open_world(path) as world:
        await world.join()
        task = (await world.submit("n"))[0]
    async with open_world(path) as world:
        floor = world.store.rev_floor
        assert floor > 1
        told = await world.cluster._replay(0)
        assert told is not None
        seen = [event.task.task_id if event.task else "n" for event in told if event.rev > floor]
        assert sorted(seen) == sorted([str(task), "n"])
        # Whoever knows something of before lacks what is gone.
        assert await world.cluster._replay(1) is None
        assert await world.cluster._replay(floor) == told
