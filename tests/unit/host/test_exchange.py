from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from hakuriver.host import exchange
from hakuriver.model.messages import Acknowledge, Finished, Kill, Launch
from hakuriver.model.nodes import NodeStatus
from hakuriver.model.tasks import Exit, TaskState
from support.host_world import FakeLink, hello, known, node_info, open_world

if TYPE_CHECKING:
    from pathlib import Path

    from hakuriver.host.records import TaskRecord
    from support.host_world import World

pytestmark = pytest.mark.asyncio

ASSIGNING, RUNNING, COMPLETED = TaskState.ASSIGNING, TaskState.RUNNING, TaskState.COMPLETED
KILLED, LOST, PENDING = TaskState.KILLED, TaskState.LOST, TaskState.PENDING
GOOD = Exit(status=COMPLETED, exit_code=0, completed_at=9.0)


# -- who is taken in ----------------------------------------------------------------------


async def test_a_runner_of_another_cluster_is_refused_with_the_mend(world: World) -> None:
    refusal = exchange.objection(world.cluster, "n", hello(cluster_id="other"))
    assert refusal is not None
    assert refusal.final
    assert "other" in refusal.reason
    assert "paths.state_dir" in refusal.reason


async def test_a_new_runner_and_one_of_ours_are_taken_in(world: World) -> None:
    for cluster_id in (None, world.store.cluster_id):
        assert exchange.objection(world.cluster, "n", hello(cluster_id=cluster_id)) is None


async def test_a_second_runner_of_a_name_is_refused_while_the_first_answers(world: World) -> None:
    await world.join("n", uid="first")
    _, refusal = await world.link("n", uid="second")
    assert refusal is not None
    assert "runner.name" in refusal.reason
    assert world.cluster.nodes.online_link("n")
    await world.leave("n")
    await world.join("n", uid="second")


async def test_the_same_runner_replaces_its_own_link(world: World) -> None:
    old = await world.join("n")
    await world.join("n")
    # Word that the old link has closed comes late, and closes nothing.
    world.detach("n", old)
    await world.settle()
    assert world.cluster.nodes.online_link("n")


# -- nothing starts before the exchange has ended -----------------------------------------


async def test_a_node_is_offline_until_its_exchange_has_ended(world: World) -> None:
    link, _ = await world.link("n")
    assert world.cluster.nodes.views()[0].status is NodeStatus.OFFLINE
    await world.exchange("n")
    assert world.cluster.nodes.views()[0].status is NodeStatus.ONLINE
    assert link.sent == []


async def test_what_waits_for_a_node_starts_when_its_exchange_has_ended(world: World) -> None:
    await world.join("n", node_info([0]))
    first, second = (await world.submit("n"))[0], (await world.submit("n"))[0]
    await world.start(first)
    await world.leave("n")
    link, _ = await world.link("n", node_info([0]))
    await world.finish(first)
    assert await world.status(second) is PENDING
    await world.exchange("n")
    assert await world.status(second) is ASSIGNING
    assert link.ids(Launch) == [second]


async def test_a_link_that_breaks_during_its_exchange_opens_nothing(world: World) -> None:
    await world.join("n")
    task = (await world.submit("n"))[0]
    record = await world.record(task)
    await world.leave("n")
    link, _ = await world.link("n")
    told = asyncio.ensure_future(
        exchange.reconcile(world.cluster, "n", link, [known(record, at=1.0)])
    )
    await asyncio.sleep(0)
    world.detach("n", link)
    await told
    await world.settle()
    assert not world.cluster.nodes.online_link("n")
    assert not link.of(Launch)


async def test_a_link_that_is_replaced_during_its_exchange_opens_nothing(world: World) -> None:
    old, _ = await world.link("n")
    told = asyncio.ensure_future(exchange.reconcile(world.cluster, "n", old, []))
    new, _ = await world.link("n")
    await told
    assert not world.cluster.nodes.online_link("n")
    await world.exchange("n")
    assert world.cluster.nodes.online_link("n")
    assert new.broken is None


# -- what the host knows and the runner does not ------------------------------------------


async def test_an_assigned_task_that_the_runner_does_not_know_is_launched_again(
    world: World,
) -> None:
    first = await world.join("n")
    task = (await world.submit("n"))[0]
    assert first.ids(Launch) == [task]
    await world.leave("n")
    assert await world.status(task) is ASSIGNING
    second = await world.join("n")
    assert second.sent == first.sent
    assert world.free() == {1}


async def test_an_assigned_task_that_the_runner_has_journaled_is_not_launched_again(
    world: World,
) -> None:
    await world.join("n")
    task = (await world.submit("n"))[0]
    record = await world.record(task)
    await world.leave("n")
    link = await world.join("n", told=[known(record)])
    assert link.sent == []
    assert await world.status(task) is ASSIGNING


async def test_a_running_task_that_the_runner_does_not_know_is_lost(world: World) -> None:
    await world.join("n")
    task = (await world.submit("n"))[0]
    await world.start(task)
    await world.leave("n")
    assert await world.status(task) is RUNNING
    link = await world.join("n")
    assert await world.status(task) is LOST
    assert "n no longer knows" in ((await world.view(task)).reason or "")
    assert world.free() == {0, 1}
    assert link.sent == []


async def test_a_pending_task_of_the_node_is_not_its_exchanges_business(world: World) -> None:
    await world.join("n", node_info([0]))
    await world.submit("n")
    waiting = (await world.submit("n"))[0]
    await world.leave("n")
    await world.join("n", node_info([0]))
    assert await world.status(waiting) is PENDING


async def test_tasks_of_other_nodes_are_left_alone(world: World) -> None:
    await world.join("m", uid="m")
    await world.join("n")
    task = (await world.submit("m"))[0]
    await world.start(task, node="m")
    await world.leave("n")
    await world.join("n")
    assert await world.status(task) is RUNNING


# -- a kill while the node was away -------------------------------------------------------


async def test_a_kill_of_a_running_task_is_delivered_in_the_exchange(world: World) -> None:
    await world.join("n")
    task = (await world.submit("n"))[0]
    await world.start(task)
    await world.leave("n")
    await world.cluster.kill(task)
    link = await world.join("n", told=[known(await world.record(task), at=1.0)])
    assert link.ids(Kill) == [task]
    assert await world.status(task) is RUNNING
    await world.finish(task, status=KILLED, exit_code=-15)
    assert await world.status(task) is KILLED


async def test_a_kill_of_an_assigned_task_means_that_it_never_runs(world: World) -> None:
    await world.join("n")
    unknown, journaled = await world.submit("n", "n")
    record = await world.record(journaled)
    await world.leave("n")
    for task in (unknown, journaled):
        await world.cluster.kill(task)
    link = await world.join("n", told=[known(record)])
    # Whether the unknown one's launch had arrived, only the runner can tell.
    assert link.ids(Launch) == []
    assert sorted(link.ids(Kill)) == sorted([unknown, journaled])
    end = Exit(status=KILLED, reason="killed before it started", completed_at=2.0)
    await world.cluster.finished("n", Finished(task_id=unknown, exit=end))
    assert await world.status(unknown) is KILLED


async def test_tasks_of_a_node_that_came_back_meanwhile_are_not_lost(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.join("m", node_info([0]), uid="m")
    await world.join("n", node_info([0]), uid="n")
    first, second = (await world.submit("m"))[0], (await world.submit("n"))[0]
    await world.start(first, node="m")
    await world.start(second, node="n")
    record = await world.record(second)
    await world.leave("m")
    await world.leave("n")
    end = world.cluster.end

    async def slow(ended: TaskRecord, to: TaskState, reason: str) -> None:
        await end(ended, to, reason)
        # The end of the first was on its way to the disk when the other's node came back.
        if ended.id == first:
            await world.join("n", node_info([0]), uid="n", told=[known(record, at=1.0)])

    monkeypatch.setattr(world.cluster, "end", slow)
    heard = {node.record.name: node for node in world.cluster.nodes}
    for node in heard.values():
        node.heard -= 100
    await exchange.sweep(world.cluster, 50)
    assert await world.status(first) is LOST
    assert await world.status(second) is RUNNING


async def test_a_kill_of_a_lost_task_is_delivered_if_its_node_comes_back(world: World) -> None:
    await world.join("n")
    task = (await world.submit("n"))[0]
    await world.start(task)
    record = await world.record(task)
    await world.leave("n")
    await exchange.sweep(world.cluster, -1)
    assert await world.status(task) is LOST
    await world.cluster.kill(task)
    link = await world.join("n", told=[known(record, at=1.0)])
    assert set(link.ids(Kill)) == {task}


# -- what the runner knows ----------------------------------------------------------------


async def test_what_its_node_told_as_lost_is_not_killed_there(world: World) -> None:
    link = await world.join()
    (task,) = await world.submit("n")
    await world.start(task)
    await world.finish(task, status=LOST, exit_code=None, reason="keeper ended")
    await world.cluster.kill(task)
    # The node has forgotten it, and would say of what it does not know that it never began.
    assert link.ids(Kill) == []
    assert (await world.record(task)).kill_requested
    assert await world.status(task) is LOST


async def test_an_end_is_taken_in_acknowledged_and_counted_once(world: World) -> None:
    await world.join("n")
    task = (await world.submit("n"))[0]
    await world.start(task)
    record = await world.record(task)
    await world.leave("n")
    for _ in range(3):
        link = await world.join("n", told=[known(record, at=1.0, end=GOOD)])
        assert link.ids(Acknowledge) == [task]
        assert await world.status(task) is COMPLETED
        assert world.free() == {0, 1}
    assert (await world.record(task)).rev < world.store.rev


async def test_a_task_that_began_and_ended_unheard_has_its_logs(world: World) -> None:
    await world.join("n")
    task = (await world.submit("n"))[0]
    record = await world.record(task)
    await world.leave("n")
    link = await world.join("n", told=[known(record, at=1.0, end=GOOD)])
    assert link.ids(Acknowledge) == [task]
    record = await world.record(task)
    assert (record.status, record.exit_code) == (COMPLETED, 0)
    assert (record.started_at, record.completed_at) == (1.0, 9.0)
    assert (record.stdout_path, record.stderr_path) == ("/o", "/e")


async def test_a_task_that_never_started_has_no_start(world: World) -> None:
    await world.join("n")
    task = (await world.submit("n"))[0]
    record = await world.record(task)
    await world.leave("n")
    end = Exit(status=TaskState.FAILED, reason="start interrupted", completed_at=9.0)
    await world.join("n", told=[known(record, end=end)])
    record = await world.record(task)
    assert (record.status, record.started_at) == (TaskState.FAILED, None)
    assert (await world.view(task)).error_message == "start interrupted"


async def test_an_assigned_task_that_started_unheard_is_running(world: World) -> None:
    await world.join("n")
    task = (await world.submit("n"))[0]
    record = await world.record(task)
    await world.leave("n")
    await world.join("n", told=[known(record, at=1.0)])
    assert await world.status(task) is RUNNING
    assert world.free() == {1}


async def test_a_lost_task_that_still_runs_is_running_again_and_holds_its_cpus(
    world: World,
) -> None:
    await world.join("n")
    task = (await world.submit("n"))[0]
    await world.start(task)
    record = await world.record(task)
    await world.leave("n")
    await exchange.sweep(world.cluster, -1)
    assert await world.status(task) is LOST
    assert world.free() == {0, 1}
    await world.join("n", told=[known(record, at=1.0)])
    assert await world.status(task) is RUNNING
    assert world.free() == {1}
    view = await world.view(task)
    assert (view.completed_at, view.reason) == (None, None)
    await world.finish(task)
    assert world.free() == {0, 1}


async def test_a_lost_task_that_ended_has_its_true_end(world: World) -> None:
    await world.join("n")
    task = (await world.submit("n"))[0]
    await world.start(task)
    record = await world.record(task)
    await world.leave("n")
    await exchange.sweep(world.cluster, -1)
    link = await world.join("n", told=[known(record, at=1.0, end=GOOD)])
    assert await world.status(task) is COMPLETED
    assert link.ids(Acknowledge) == [task]
    assert world.free() == {0, 1}


async def test_tasks_that_are_not_the_nodes_own_change_nothing(world: World) -> None:
    await world.join("m", uid="m")
    await world.join("n")
    task = (await world.submit("m"))[0]
    record = await world.record(task)
    stranger = type(record)(
        **{name: getattr(record, name) for name in record.__struct_fields__} | {"id": 12345}
    )
    await world.leave("n")
    told = [known(record, at=1.0, end=GOOD), known(stranger, at=1.0)]
    link = await world.join("n", told=told)
    # The runner may forget what it tells of another's task; nothing comes of it here.
    assert link.ids(Acknowledge) == [task]
    assert link.of(Kill) == []
    assert await world.record(task) == record
    assert world.launches("m") == [task]


# -- silence ------------------------------------------------------------------------------


async def test_tasks_are_lost_by_silence_alone_never_by_a_broken_link(world: World) -> None:
    await world.join("n")
    running, assigned = await world.submit("n", "n")
    await world.start(running)
    await world.leave("n")
    await exchange.sweep(world.cluster, 60)
    assert await world.status(running) is RUNNING
    await exchange.sweep(world.cluster, -1)
    assert await world.status(running) is LOST
    assert await world.status(assigned) is ASSIGNING
    assert "the node may still tell" in ((await world.view(running)).reason or "")


async def test_a_silent_link_is_broken(world: World) -> None:
    await world.join("m", uid="m")
    link = await world.join("n")
    world.cluster.nodes.get("n").heard -= 100
    await exchange.sweep(world.cluster, 30)
    assert "silent" in (link.broken or "")
    assert world.links["m"].broken is None


async def test_a_sign_of_life_is_counted_from_the_hosts_start(tmp_path: Path) -> None:
    path = tmp_path / "host.db"
    async with open_world(path) as world:
        await world.join("n")
        task = (await world.submit("n"))[0]
        await world.start(task)
    async with open_world(path) as world:
        await exchange.sweep(world.cluster, 60)
        assert await world.status(task) is RUNNING
        assert world.free() == {1}
        link = await world.join("n", told=[known(await world.record(task), at=1.0)])
        assert await world.status(task) is RUNNING
        assert isinstance(link, FakeLink)
        assert link.sent == []
