"""A runner that lies about tasks: it comes by nothing that it was not given."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec
import pytest
from tornado.websocket import WebSocketClosedError

from hakuriver.host import links
from hakuriver.model.ids import EPOCH_MS
from hakuriver.model.messages import Acknowledge, Kill, Known, KnownEnd, Started
from hakuriver.model.tasks import Exit, Placement, TaskSpec, TaskState
from support.host_world import completed, hello, known, node_info
from unit.host.test_adoption import GOOD, told

if TYPE_CHECKING:
    from support.host_server import Server
    from support.host_world import World

pytestmark = pytest.mark.asyncio
PENDING, RUNNING = TaskState.PENDING, TaskState.RUNNING


async def test_a_waiting_task_is_not_claimed_by_its_id_alone(world: World) -> None:
    await world.join("m", node_info([0]), uid="m")
    busy, waiting = await world.submit() + await world.submit(arguments=["secret"])
    record = await world.record(waiting)
    guess = msgspec.structs.replace(known(record, at=1.0, end=GOOD), spec=TaskSpec(command="true"))
    link = await world.join("n", node_info([0]), told=[guess], uid="n")
    # It was told that this is none of its business, and then given the task as any node is.
    assert link.ids(Acknowledge) == [waiting]
    assert await world.status(waiting) is TaskState.ASSIGNING
    assert world.launches("n") == [waiting]
    assert (await world.record(busy)).node == "m"


async def test_a_claim_changes_nothing_but_the_cpus(world: World) -> None:
    await world.join("n", node_info([0]))
    _, waiting = await world.submit("n", "n")
    record = await world.record(waiting)
    await world.leave()
    place = Placement(batch_id=5, batch_index=7, batch_size=9, cpus=(0,))
    lie = msgspec.structs.replace(known(record, at=1.0), placement=place)
    await world.join("n", node_info([0]), told=[lie])
    assert world.cluster.tasks[waiting].placement == msgspec.structs.replace(
        record.placement, cpus=(0,)
    )


async def test_nobody_joins_a_batch_to_read_its_script(server: Server) -> None:
    await server.join("m", uid="m")
    (task_id,) = await server.submitted(
        command=None, script="print('secret')", env_vars={"KEY": "secret"}, targets=["m"]
    )
    batch = (await server.world.record(task_id)).placement.batch_id
    guess = Known(
        task_id=task_id + 1,
        spec=TaskSpec(command=""),
        placement=Placement(batch_id=batch, batch_index=1, batch_size=2),
    )
    wire = await server.join("n", told=[guess], uid="n")
    assert (await wire.hear_a(Kill)).task_id == task_id + 1
    assert (await server.ask(f"/api/tasks/{task_id + 1}")).code == 404
    assert (await server.ask(f"/api/status/{task_id + 1}")).code == 404


async def test_an_id_of_a_far_future_is_not_taken_in(world: World) -> None:
    year = 366 * 86_400_000
    now = time.time_ns() // 1_000_000 - EPOCH_MS
    near, far, last = ((now + year // 2) << 22), ((now + 2 * year) << 22), (1 << 63) - 1
    link = await world.join(told=[told(near), told(far), told(last), told(101, batch_id=last)])
    assert set(link.ids(Kill)) == {far, last, 101}
    assert set(world.cluster.tasks) == {near}


async def test_what_is_told_after_the_exchange_is_not_kept(server: Server) -> None:
    wire = await server.join()
    for task_id in range(5):
        await wire.say(told(1000 + task_id))
    # The end of a task that it was given is heard after all of that.
    (task_id,) = await server.submitted(targets=["n"])
    await wire.hear()
    await wire.say(completed(task_id))
    assert (await wire.hear_a(Acknowledge)).task_id == task_id
    assert set(server.world.cluster.tasks) == set()
    assert (await server.ask("/api/status/1000")).code == 404


async def test_too_much_at_once_breaks_the_link(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "_MAX_EXCHANGE", 100_000)
    wire = await server.wire()
    await wire.say(hello())
    with suppress(WebSocketClosedError):
        for task_id in range(200):
            spec = TaskSpec(command="c", arguments=("x" * 1000,))
            await wire.say(msgspec.structs.replace(told(task_id), spec=spec))
    assert await wire.closed() == 1001
    assert not server.world.cluster.nodes.online_link("n")
    # Whoever is online may say as much as it likes.
    wire = await server.join(told=[told(1)])
    for _ in range(200):
        await wire.say(Started(task_id=1, started_at=1.0, stdout_path="x" * 1000, stderr_path=""))
    await wire.say(completed(1))
    assert (await wire.hear_a(Acknowledge)).task_id == 1


@pytest.mark.parametrize(
    "message",
    [
        Started(task_id=1, started_at=1.0, stdout_path="x" * 9000, stderr_path=""),
        Started(task_id=1, started_at=1.0, stdout_path="", stderr_path="", unit="x" * 201),
        completed(1, reason="x" * 70_000),
        told(1, spec=TaskSpec(command="c", name="x" * 2000)),
        told(1, spec=TaskSpec(command="c", required_cores=-1)),
        told(1, spec=TaskSpec(command="c", required_memory_bytes=-1)),
        told(1, end=Exit(status=RUNNING, completed_at=1.0, reason="x" * 70_000)),
        told(1, cpus=tuple(range(70_000))),
    ],
    ids=["path", "unit", "reason", "name", "cores", "memory", "known reason", "cpus"],
)
async def test_a_field_out_of_bounds_breaks_the_link(server: Server, message: Known) -> None:
    wire = await server.join()
    await wire.say(message)
    assert await wire.closed() == 1002


async def test_the_longest_words_of_an_honest_runner_are_taken_in(server: Server) -> None:
    (wire, reason) = (await server.join(), "x" * (1 << 12))
    (task_id,) = await server.submitted(targets=["n"])
    await wire.hear()
    await wire.say(completed(task_id, status=TaskState.FAILED, exit_code=1, reason=reason))
    assert (await wire.hear_a(Acknowledge)).task_id == task_id
    assert (await server.world.record(task_id)).reason == reason


async def test_a_hello_of_long_words_is_no_message(server: Server) -> None:
    wire = await server.wire()
    await wire.say(hello(uid="x" * 300), KnownEnd())
    assert await wire.closed() == 1002
