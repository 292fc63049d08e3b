from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hakuriver.errors import InvalidRequest, SubmissionRefused
from hakuriver.host.submission import Submission
from hakuriver.model.messages import Launch
from hakuriver.model.nodes import Capabilities
from hakuriver.model.submission import SubmitRequest
from hakuriver.model.tasks import TaskState
from support.host_world import known, node_info

if TYPE_CHECKING:
    from support.host_world import World

pytestmark = pytest.mark.asyncio


async def reasons(world: World, **fields: object) -> dict[str, str]:
    """Return why each target got no task, when none did."""
    request = SubmitRequest(command="c", **fields)  # type: ignore[arg-type]
    with pytest.raises(SubmissionRefused) as caught:
        await Submission(world.cluster, request, "alice").submit()
    assert caught.value.failed_targets
    for failed in caught.value.failed_targets:
        assert failed.reason in str(caught.value)
    return {failed.target: failed.reason for failed in caught.value.failed_targets}


async def test_each_target_has_its_own_reason(world: World) -> None:
    await world.join("n", node_info(range(4), numa={"0": [0, 1], "1": [2, 3]}))
    await world.join("away", uid="away")
    await world.leave("away")
    targets = ["gone", "away", "n:5", "a b"]
    found = await reasons(world, targets=targets)
    assert list(found) == targets
    assert "no node 'gone'" in found["gone"]
    assert found["away"] == "away is offline"
    assert "no NUMA node 5" in found["n:5"]
    assert "no node name" in found["a b"]
    assert "asks for 3 cores" in (await reasons(world, targets=["n:0"], required_cores=3))["n:0"]
    assert world.cluster.tasks == {}


async def test_a_partly_refused_submission_creates_the_rest(world: World) -> None:
    await world.join("n")
    request = SubmitRequest(command="c", targets=["n", "gone", "n"])
    reply = await Submission(world.cluster, request, "alice").submit()
    assert len(set(reply.task_ids)) == 2
    assert [failed.target for failed in reply.failed_targets] == ["gone"]
    assert reply.message == "2 of 3 tasks created"
    first, second = [await world.record(int(task_id)) for task_id in reply.task_ids]
    places = [(task.placement.batch_index, task.placement.batch_size) for task in (first, second)]
    assert places == [(0, 2), (1, 2)]
    assert {str(first.placement.batch_id), str(second.placement.batch_id)} == {reply.batch_id}
    assert first.origin.owner == "alice"
    assert first.placement.batch_id < first.id < second.id


async def test_without_targets_any_online_node_is_good(world: World) -> None:
    found = await reasons(world)
    assert list(found) == ["any node"]
    await world.join("n")
    assert await world.submit()
    assert "largest node has 2" in (await reasons(world, required_cores=3))["any node"]
    await world.leave("n")
    assert (await reasons(world))["any node"] == "no node is online"


async def test_an_empty_list_of_targets_is_a_mistake(world: World) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await Submission(world.cluster, SubmitRequest(command="c", targets=[]), "alice").submit()
    assert caught.value.field == "targets"


@pytest.mark.parametrize(
    ("fields", "capability", "words"),
    [
        ({"required_memory_bytes": 1}, "memory_limit", "a memory limit"),
        ({"time_limit_seconds": 1.0}, "time_limit", "a time limit"),
        ({"use_private_network": True}, "private_network", "a private network"),
        ({"use_private_pid": True}, "private_pid", "private process ids"),
    ],
)
async def test_what_a_node_cannot_enforce_is_refused_with_its_reason(
    world: World, fields: dict[str, object], capability: str, words: str
) -> None:
    unable = Capabilities(**{capability: "because"})
    await world.join("n", node_info(capabilities=unable))
    for targets in (["n"], None):
        (reason,) = (await reasons(world, targets=targets, **fields)).values()
        assert words in reason
        assert "because" in reason
    assert await world.submit("n")


async def test_a_binding_is_refused_where_it_cannot_be_had(world: World) -> None:
    info = node_info(numa={"0": [0, 1]}, capabilities=Capabilities(numa_binding="no numactl"))
    await world.join("n", info)
    assert "no numactl" in (await reasons(world, targets=["n:0"]))["n:0"]
    assert await world.submit("n")


async def test_without_a_target_a_task_goes_to_a_node_that_can_enforce_its_limits(
    world: World,
) -> None:
    await world.join("able", node_info([0]), uid="able")
    unable = Capabilities(time_limit="because")
    await world.join("unable", node_info(range(8), capabilities=unable), uid="unable")
    task = (await world.submit(time_limit_seconds=5.0))[0]
    assert (await world.record(task)).node in ("able", None)
    assert world.launches("unable") == []


async def test_a_task_for_a_node_that_is_away_waits_for_it_alone(world: World) -> None:
    """What waits for a closed node keeps its place, and is no burden to the others."""
    await world.join("m", node_info([0]), uid="m")
    await world.join("n", node_info([0]))
    busy, first, second = await world.submit("n", "n", "n")
    await world.leave("n")
    (other,) = await world.submit("m")
    assert await world.status(other) is TaskState.ASSIGNING
    assert (await world.view(first)).reason == "waits for n, which is offline"
    assert (await world.view(second)).queue_position == 1
    await world.cluster.kill(first)
    told = [known(await world.record(busy), at=1.0)]
    await world.join("n", node_info([0]), told=told)
    assert (await world.view(second)).queue_position == 0
    await world.finish(busy)
    assert await world.status(second) is TaskState.ASSIGNING


# -- without waiting ----------------------------------------------------------------------


async def test_what_must_not_wait_is_refused_where_there_is_no_room(world: World) -> None:
    await world.join("n", node_info([0, 1]))
    await world.join("m", node_info([0]), uid="m")
    reply = await world.ask("n", "m", "n", "n", "m", queue=False, required_memory_bytes=1 << 30)
    assert reply.message == "3 of 5 tasks created"
    assert [(one.target, one.reason) for one in reply.failed_targets] == [
        ("n", "no room now: it waits for 1 core on n (0 free)"),
        ("m", "no room now: it waits for 1 core on m (0 free)"),
    ]
    await world.settle()
    tasks = [await world.record(int(task_id)) for task_id in reply.task_ids]
    assert [task.status for task in tasks] == [TaskState.ASSIGNING] * 3
    assert [task.node for task in tasks] == ["n", "m", "n"]
    # The batch has as many tasks as were created.
    places = [(task.placement.batch_index, task.placement.batch_size) for task in tasks]
    assert places == [(0, 3), (1, 3), (2, 3)]
    assert len(world.cluster.tasks) == 3


async def test_when_nothing_has_room_nothing_is_created_or_kept(world: World) -> None:
    await world.join("n", node_info([0, 1], memory=100))
    (first,) = await world.submit("n", required_memory_bytes=80)
    before = await world.record(first)
    found = await reasons(world, targets=["n", "n:0"], queue=False, required_memory_bytes=30)
    assert found["n"] == "no room now: it waits for 30 B of memory on n (20 B free)"
    assert "no NUMA node 0" in found["n:0"]
    found = await reasons(world, queue=False, required_cores=2)
    assert found == {"any node": "no room now: it waits for a node with 2 cores free"}
    assert world.cluster.tasks == {first: before}
    assert world.free() == {1}
    assert world.cluster._coming == {}
    # What was refused claims nothing.
    assert len(await world.submit("n")) == 1
    assert world.free() == set()


async def test_what_must_not_wait_does_not_push_in(world: World) -> None:
    await world.join("n", node_info([0, 1]))
    (first,) = await world.submit("n")
    (waiting,) = await world.submit("n", required_cores=2)
    # One CPU is free, and kept for the one that waits.
    found = await reasons(world, targets=["n"], queue=False)
    assert found == {"n": "no room now: it waits for its turn on n"}
    await world.finish(first)
    assert await world.status(waiting) is TaskState.ASSIGNING


async def test_others_that_the_scheduler_finds_on_the_occasion_start(world: World) -> None:
    link = await world.join("n", node_info([0]))
    first, second = await world.submit("n", "n")
    # Free without a word to the scheduler, as at the moment of a release.
    world.cluster.scheduler.release(first)
    found = await reasons(world, targets=["n"], queue=False)
    assert "no room now" in found["n"]
    await world.settle()
    assert await world.status(second) is TaskState.ASSIGNING
    assert link.ids(Launch) == [first, second]


async def test_memory_that_no_node_has_is_refused(world: World) -> None:
    await world.join("n", node_info([0, 1], numa={"0": [0, 1]}, memory=2 << 30))
    found = await reasons(world, targets=["n", "n:0", "n"], required_memory_bytes=3 << 30)
    assert found == {
        "n": "asks for 3 GiB of memory, n has 2 GiB",
        "n:0": "asks for 3 GiB of memory, n:0 has 1 GiB",
    }
    found = await reasons(world, required_memory_bytes=3 << 30)
    assert found == {"any node": "asks for 3 GiB of memory, the largest node has 2 GiB"}


async def test_before_the_first_node_has_joined_that_is_said(world: World) -> None:
    found = await reasons(world, targets=["n", "a b"])
    assert found["n"].startswith("no node has joined yet")
    assert (await reasons(world))["any node"].startswith("no node has joined yet")


async def test_where_a_task_comes_from_is_kept(world: World) -> None:
    await world.join("n", node_info([0]))
    replies = [await world.ask("n", owner="bob"), await world.ask(owner="bob", retry_of=9)]
    one, two = [await world.record(int(reply.task_ids[0])) for reply in replies]
    assert (one.origin.owner, one.origin.targeted, one.origin.retry_of) == ("bob", True, None)
    assert (two.origin.owner, two.origin.targeted, two.origin.retry_of) == ("bob", False, 9)
    assert one.origin.submitted_at <= two.origin.submitted_at
    await world.settle()
    assert world.links["n"].of(Launch)[0].origin == one.origin
