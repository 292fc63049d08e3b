from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hakuriver.errors import InvalidRequest, SubmissionRefused
from hakuriver.host.submission import submit
from hakuriver.model.nodes import Capabilities
from hakuriver.model.submission import SubmitRequest
from support.host_world import node_info

if TYPE_CHECKING:
    from support.host_world import World

pytestmark = pytest.mark.asyncio


async def reasons(world: World, **fields: object) -> dict[str, str]:
    """Return why each target got no task, when none did."""
    request = SubmitRequest(command="c", **fields)  # type: ignore[arg-type]
    with pytest.raises(SubmissionRefused) as caught:
        await submit(world.cluster, request, "alice")
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
    reply = await submit(world.cluster, request, "alice")
    assert len(set(reply.task_ids)) == 2
    assert [failed.target for failed in reply.failed_targets] == ["gone"]
    assert reply.message == "2 of 3 tasks created"
    first, second = [await world.record(int(task_id)) for task_id in reply.task_ids]
    places = [(task.placement.batch_index, task.placement.batch_size) for task in (first, second)]
    assert places == [(0, 2), (1, 2)]
    assert {str(first.placement.batch_id), str(second.placement.batch_id)} == {reply.batch_id}
    assert first.owner == "alice"
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
        await submit(world.cluster, SubmitRequest(command="c", targets=[]), "alice")
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
