"""Nodes that drain, come back to work, and are forgotten; and their accounts."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from hakuriver.errors import Conflict, NotFound, StoreError, SubmissionRefused
from hakuriver.host import exchange
from hakuriver.host.store import queries
from hakuriver.model.messages import Launch
from hakuriver.model.nodes import NodeStatus
from hakuriver.model.tasks import TaskState
from hakuriver.model.views import Event, NumaAccount
from support.host_world import Commits, FakeLink, hello, known, node_info, open_world

if TYPE_CHECKING:
    from pathlib import Path

    from hakuriver.host.records import NodeRecord, TaskRecord
    from support.host_world import World

pytestmark = pytest.mark.asyncio

ASSIGNING, RUNNING, COMPLETED = TaskState.ASSIGNING, TaskState.RUNNING, TaskState.COMPLETED
FAILED, LOST, PENDING = TaskState.FAILED, TaskState.LOST, TaskState.PENDING


async def drain(world: World, name: str = "n", *, draining: bool = True) -> None:
    await world.cluster.nodes.drain(name, draining=draining)
    world.cluster.schedule()
    await world.settle()


# -- accounts -----------------------------------------------------------------------------


async def test_memory_is_accounted_by_limits_on_node_and_part(world: World) -> None:
    info = node_info(range(4), numa={"0": [0, 1], "1": [2, 3]}, memory=100)
    await world.join("n", info)
    (bound,) = await world.submit("n:1", required_memory_bytes=30)
    await world.submit("n", required_memory_bytes=50, required_cores=0)
    view = world.cluster.nodes.views()[0]
    assert (view.memory_total_bytes, view.memory_in_use_bytes) == (100, 80)
    assert view.numa_use["1"] == NumaAccount(
        total_cores=2, cores_in_use=1, memory_bytes=1 << 30, memory_in_use_bytes=30
    )
    assert view.numa_use["0"].memory_in_use_bytes == 0
    (waiting,) = await world.submit("n", required_memory_bytes=40, required_cores=0)
    assert (await world.view(waiting)).reason == "waits for 40 B of memory on n (20 B free)"
    await world.finish(bound)
    assert await world.status(waiting) is ASSIGNING
    assert world.cluster.nodes.views()[0].memory_in_use_bytes == 90


# -- drain and resume ---------------------------------------------------------------------


async def test_a_draining_node_gets_no_new_tasks(world: World) -> None:
    await world.join("n", node_info([0]))
    running, waiting = await world.submit("n", "n")
    await world.start(running)
    await drain(world)
    assert world.cluster.nodes.views()[0].draining
    # What runs there goes on, and what waited waits on.
    assert await world.status(running) is RUNNING
    assert (await world.view(waiting)).reason == "waits for n, which is draining"
    await world.finish(running)
    assert await world.status(waiting) is PENDING
    with pytest.raises(SubmissionRefused, match="n is draining"):
        await world.submit("n")
    with pytest.raises(SubmissionRefused, match="every node that is online is draining"):
        await world.submit()
    await drain(world, draining=False)
    assert await world.status(waiting) is ASSIGNING
    assert world.launches() == [running, waiting]


async def test_what_may_run_anywhere_goes_where_nobody_drains(world: World) -> None:
    await world.join("n", node_info(range(8)))
    await world.join("m", node_info([0]), uid="m")
    await drain(world)
    tasks = await world.submit(), await world.submit()
    assert [(await world.record(task)).node for (task,) in tasks] == ["m", None]
    await drain(world, draining=False)
    assert (await world.record(tasks[1][0])).node == "n"


async def test_draining_outlives_links_and_hosts(tmp_path: Path) -> None:
    path = tmp_path / "host.db"
    async with open_world(path) as world:
        await world.join()
        await drain(world)
        await world.leave()
        await world.join()
        assert world.cluster.nodes.get("n").record.draining
    async with open_world(path) as world:
        await world.join()
        with pytest.raises(SubmissionRefused, match="draining"):
            await world.submit("n")
        await drain(world, draining=False)
    async with open_world(path) as world:
        await world.join()
        assert len(await world.submit("n")) == 1


async def test_an_assigned_task_of_a_draining_node_still_starts(world: World) -> None:
    await world.join()
    (task,) = await world.submit("n")
    await world.leave()
    await drain(world)
    link = await world.join()
    assert link.ids(Launch) == [task]


async def test_a_node_that_is_away_can_be_drained(world: World) -> None:
    await world.join("n", node_info([0]))
    await world.leave()
    await drain(world)
    assert world.cluster.nodes.views()[0].status is NodeStatus.OFFLINE
    await world.join("n", node_info([0]))
    with pytest.raises(SubmissionRefused, match="draining"):
        await world.submit("n")


async def test_an_unknown_node_can_be_neither_drained_nor_forgotten(world: World) -> None:
    await world.join()
    for work in (
        world.cluster.nodes.drain("gone", draining=True),
        exchange.forget(world.cluster, "gone"),
    ):
        with pytest.raises(NotFound, match=r"no node 'gone' \(nodes: n\)"):
            await work


# -- forget -------------------------------------------------------------------------------


async def test_a_forgotten_node_ends_what_was_to_run_on_it(world: World) -> None:
    await world.join("m", node_info([0]), uid="m")
    await world.join("n", node_info([0, 1]))
    running, assigned, waiting = await world.submit("n", "n", "n")
    other = (await world.submit("m"))[0]
    anywhere = (await world.submit())[0]
    await world.start(running)
    await world.leave()
    await exchange.forget(world.cluster, "n")
    await world.settle()
    assert await world.status(running) is LOST
    assert await world.status(assigned) is LOST
    assert await world.status(waiting) is FAILED
    assert await world.status(other) is ASSIGNING
    assert await world.status(anywhere) is PENDING
    for task in (running, assigned):
        reason = (await world.view(task)).reason or ""
        assert "n was removed" in reason
        assert "the node may still tell" in reason
    assert "n was removed" in ((await world.view(waiting)).error_message or "")
    assert set(world.cluster.tasks) == {other, anywhere}
    assert [view.hostname for view in world.cluster.nodes.views()] == ["m"]
    assert [node.name for node in await world.store.read(queries.nodes)] == ["m"]
    with pytest.raises(SubmissionRefused, match="no node 'n'"):
        await world.submit("n")


async def test_an_online_node_is_not_forgotten(world: World) -> None:
    await world.join()
    (task,) = await world.submit("n")
    with pytest.raises(Conflict, match="online"):
        await exchange.forget(world.cluster, "n")
    # Not even one whose exchange has not ended yet.
    await world.leave()
    await world.link("n")
    with pytest.raises(Conflict, match="online"):
        await exchange.forget(world.cluster, "n")
    assert await world.status(task) is ASSIGNING
    assert [node.name for node in await world.store.read(queries.nodes)] == ["n"]


async def test_a_forgotten_node_that_comes_back_is_a_new_one_and_tells(world: World) -> None:
    await world.join()
    running, ended = await world.submit("n", "n")
    for task in (running, ended):
        await world.start(task)
    records = [await world.record(task) for task in (running, ended)]
    await drain(world)
    await world.leave()
    await exchange.forget(world.cluster, "n")
    end = msgspec.structs.replace(known(records[1], at=1.0), exit=None)
    told = [known(records[0], at=1.0), end]
    await world.join(told=told)
    assert not world.cluster.nodes.get("n").record.draining
    assert await world.status(running) is RUNNING
    assert world.held() == {running, ended}
    await world.finish(ended)
    assert await world.status(ended) is COMPLETED
    assert world.free() == {1}


async def test_a_forgotten_node_is_gone_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "host.db"
    async with open_world(path) as world:
        await world.join()
        await world.submit("n")
        await world.leave()
        await exchange.forget(world.cluster, "n")
    async with open_world(path) as world:
        assert world.cluster.nodes.views() == []
        assert world.cluster.tasks == {}


async def test_followers_hear_that_a_node_was_forgotten(world: World) -> None:
    await world.join("n", node_info([0]))
    running, waiting = await world.submit("n", "n")
    await world.start(running)
    await world.leave()
    stream = world.cluster.feed.follow(None)
    before = msgspec.json.decode(await anext(stream), type=Event).rev
    moved = world.cluster.nodes.moved.next("n")
    await exchange.forget(world.cluster, "n")
    assert moved.is_set()
    events: list[Event] = []
    while not any(event.forgotten for event in events):
        chunk = await asyncio.wait_for(anext(stream), 30)
        events += [msgspec.json.decode(line, type=Event) for line in chunk.splitlines()]
    await stream.aclose()
    seen: dict[str, Any] = {one.task.task_id: one.task.status for one in events if one.task}
    assert seen == {str(running): LOST, str(waiting): FAILED}
    assert [event.forgotten for event in events if event.forgotten] == ["n"]
    revs = [event.rev for event in events]
    assert revs == sorted(set(revs))
    assert revs[0] > before
    # Whoever asks from before that moment starts anew: no row tells of it any more.
    late = world.cluster.feed.follow(before)
    lines = [await asyncio.wait_for(anext(late), 30) for _ in range(2)]
    assert b'"forgotten":"n"' in lines[1]
    await late.aclose()


async def test_after_a_restart_a_forgotten_node_is_a_reset(tmp_path: Path) -> None:
    path = tmp_path / "host.db"
    async with open_world(path) as world:
        await world.join("m", uid="m")
        await world.join("n")
        before = world.store.rev
        await world.leave()
        await exchange.forget(world.cluster, "n")
        after = world.store.rev
    async with open_world(path) as world:
        for asked, is_reset in ((before, True), (after - 1, True), (after, False)):
            stream = world.cluster.feed.follow(asked)
            assert msgspec.json.decode(await anext(stream), type=Event).rev == asked
            await world.cluster.nodes.drain("m", draining=asked == before)
            event = msgspec.json.decode((await anext(stream)).splitlines()[0], type=Event)
            assert event.reset == is_reset
            assert event.rev >= after
            await stream.aclose()


async def test_whoever_asks_from_before_a_node_was_forgotten_starts_anew(tmp_path: Path) -> None:
    path = tmp_path / "host.db"
    async with open_world(path) as world:
        await world.join()
        before = world.store.rev - 1
    async with open_world(path) as world:
        assert await world.cluster._replay(before) is not None
        await exchange.forget(world.cluster, "n")
        # The row that would tell of it is gone, and this host's ring began later.
        assert await world.cluster._replay(before) is None


async def test_two_who_forget_the_same_node_are_both_answered(world: World) -> None:
    await world.join()
    await world.submit("n")
    await world.leave()
    works = [exchange.forget(world.cluster, "n") for _ in range(2)]
    ends = await asyncio.gather(*works, return_exceptions=True)
    assert [type(end) for end in ends].count(type(None)) == 1
    assert all(end is None or isinstance(end, NotFound) for end in ends)


async def test_a_node_that_cannot_be_removed_from_the_store_stays(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.join()
    (task,) = await world.submit("n")
    await world.leave()
    commits = Commits(world.store, monkeypatch)
    commits.failing = 2
    with pytest.raises(StoreError):
        await exchange.forget(world.cluster, "n")
    assert [view.hostname for view in world.cluster.nodes.views()] == ["n"]
    assert await world.status(task) in (ASSIGNING, LOST)
    await exchange.forget(world.cluster, "n")
    assert await world.status(task) is LOST
    assert world.cluster.nodes.views() == []


@pytest.mark.parametrize("step", range(8))
async def test_a_host_that_ends_while_it_forgets_leaves_no_task_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Whatever is on disk when it ends, a task that is unfinished has a node that can end it."""
    path = tmp_path / "host.db"
    async with open_world(path) as world:
        await world.join("n", node_info([0]))
        running, waiting = await world.submit("n", "n")
        await world.start(running)
        await world.leave()
        commits = Commits(world.store, monkeypatch)
        commit = world.store._database.commit

        def only_some() -> None:
            commits.failing = 0 if commits.count < step else 1
            commit()

        monkeypatch.setattr(world.store._database, "commit", only_some)
        with_fault = await asyncio.gather(
            exchange.forget(world.cluster, "n"), return_exceptions=True
        )
        assert isinstance(with_fault[0], (StoreError, type(None)))
        monkeypatch.setattr(world.store._database, "commit", commit)
        commits.failing = 0
    async with open_world(path) as world:
        known_nodes = {view.hostname for view in world.cluster.nodes.views()}
        for task in world.cluster.tasks.values():
            assert task.node in known_nodes
        if step == 7:
            assert not known_nodes
            assert await world.status(running) is LOST
            assert await world.status(waiting) is FAILED


async def test_tasks_of_a_node_that_nobody_knows_are_ended_by_the_next_look(
    tmp_path: Path,
) -> None:
    path = tmp_path / "host.db"
    async with open_world(path) as world:
        await world.join("n", node_info([0]))
        running, waiting = await world.submit("n", "n")
        await world.start(running)
        await world.leave()
        # As a host left it that died at a bad moment.
        await world.store.write(queries.forget_node, "n", world.store.next_rev())
    async with open_world(path) as world:
        await world.join("m", uid="m")
        (other,) = await world.submit("m")
        await exchange.sweep(world.cluster, 1e9)
        assert await world.status(running) is LOST
        assert await world.status(waiting) is FAILED
        assert await world.status(other) is ASSIGNING
        assert set(world.cluster.tasks) == {other}


async def test_a_host_that_stood_still_does_not_call_its_nodes_silent(world: World) -> None:
    await world.join()
    (task,) = await world.submit("n")
    await world.start(task)
    node = world.cluster.nodes.get("n")
    node.heard -= 1000
    world.cluster.nodes.excuse(990)
    await exchange.sweep(world.cluster, 60)
    assert world.links["n"].broken is None
    world.links["n"].broken = None
    node.heard -= 100
    await exchange.sweep(world.cluster, 60)
    assert "silent" in (world.links["n"].broken or "")


async def returning(world: World, monkeypatch: pytest.MonkeyPatch, *, tell: bool) -> list[FakeLink]:
    """Let the node say hello at the moment in which it is removed from the store."""
    links: list[FakeLink] = []
    save = queries.forget_node
    loop = asyncio.get_running_loop()
    record: NodeRecord = world.cluster.nodes.get("n").record
    tasks = [task for task in world.cluster.tasks.values() if task.status is RUNNING]

    async def come_back() -> None:
        link = FakeLink()
        links.append(link)
        world.links["n"] = link
        await world.cluster.nodes.admit("n", hello(record.info), link)
        if tell:
            told = [known(task, at=1.0) for task in tasks]
            await exchange.reconcile(world.cluster, "n", link, told)

    def removed(name: str, rev: int) -> None:
        save(name, rev)
        loop.call_soon_threadsafe(lambda: world.cluster.spawn(come_back()))

    monkeypatch.setattr(queries, "forget_node", removed)
    return links


@pytest.mark.parametrize("tell", [False, True])
async def test_a_node_that_comes_back_while_it_is_forgotten_stays(
    world: World, monkeypatch: pytest.MonkeyPatch, *, tell: bool
) -> None:
    await world.join()
    (task,) = await world.submit("n")
    await world.start(task)
    await world.leave()
    links = await returning(world, monkeypatch, tell=tell)
    await asyncio.gather(exchange.forget(world.cluster, "n"), return_exceptions=True)
    await world.settle()
    if not tell:
        await world.exchange("n", [known(await world.record(task), at=1.0)])
    # Either it was gone and has joined anew, or it was never gone: it is there, and on disk.
    assert world.cluster.nodes.online_link("n") is links[0]
    assert [node.name for node in await world.store.read(queries.nodes)] == ["n"]
    # What runs on an online node is told as running, and holds its CPU.
    assert await world.status(task) is RUNNING
    assert world.held() == {task}
    await world.finish(task)
    assert await world.status(task) is COMPLETED
    assert len(await world.submit("n")) == 1


async def test_what_a_node_tells_while_its_tasks_are_ended_stays(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.join()
    first, second = await world.submit("n", "n")
    for task in (first, second):
        await world.start(task)
    told = [known(await world.record(task), at=1.0) for task in (first, second)]
    await world.leave()
    end = world.cluster.end

    async def slow(record: TaskRecord, to: TaskState, reason: str) -> None:
        await end(record, to, reason)
        # The node came back while the end of the first was on its way to the disk.
        if record.id == first:
            await world.join(told=told)

    monkeypatch.setattr(world.cluster, "end", slow)
    await asyncio.gather(exchange.forget(world.cluster, "n"), return_exceptions=True)
    await world.settle()
    assert world.cluster.nodes.online_link("n")
    assert [await world.status(task) for task in (first, second)] == [RUNNING, RUNNING]
    assert world.held() == {first, second}
