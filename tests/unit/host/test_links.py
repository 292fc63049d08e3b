from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec
import pytest
from tornado.httpclient import HTTPClientError

from hakuriver.model.auth import runner_token
from hakuriver.model.messages import (
    MAX_FRAME,
    Acknowledge,
    Heartbeat,
    KnownEnd,
    Launch,
    LaunchWaiting,
    Refuse,
    Welcome,
    encode,
)
from hakuriver.model.nodes import Metrics
from hakuriver.model.tasks import TaskState
from support.host_server import CONFIG, SECRET, TOKEN
from support.host_world import completed, hello, known, node_info, started, until

if TYPE_CHECKING:
    from support.host_server import Server

pytestmark = pytest.mark.asyncio


# -- who may link up ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "token",
    ["", "wrong", TOKEN, SECRET, runner_token(SECRET, "m"), runner_token("other", "n")],
)
async def test_a_wrong_token_is_refused(server: Server, token: str) -> None:
    with pytest.raises(HTTPClientError) as caught:
        await server.wire("n", token=token)
    assert caught.value.code == 401


@pytest.mark.parametrize("name", ["", "a%20b", "..", "a/b", "n:0", "%ff"])
async def test_what_is_no_name_has_no_token(server: Server, name: str) -> None:
    with pytest.raises(HTTPClientError) as caught:
        await server.wire(name, token=runner_token(SECRET, name))
    assert caught.value.code == 401


async def test_a_runners_token_opens_nothing_else(server: Server) -> None:
    response = await server.ask("/api/nodes", token=runner_token(SECRET, "n"))
    assert response.code == 401


# -- the first exchange -------------------------------------------------------------------


async def test_a_runner_is_welcomed_and_online_after_its_exchange(server: Server) -> None:
    wire = await server.wire()
    await wire.say(hello())
    welcome = await wire.hear_a(Welcome)
    assert welcome.cluster_id == server.world.store.cluster_id
    assert welcome.heartbeat_interval == CONFIG.timing.heartbeat_interval
    assert not server.world.cluster.nodes.online_link("n")
    await wire.say(KnownEnd())
    await until(lambda: server.world.cluster.nodes.online_link("n"))


async def test_whoever_is_refused_hears_why_and_is_cut_off(server: Server) -> None:
    wire = await server.wire()
    await wire.say(hello(cluster_id="other"))
    refusal = await wire.hear_a(Refuse)
    assert refusal.final
    assert await wire.closed() == 1008
    assert server.world.cluster.nodes.find("n") is None


async def test_the_same_runner_anew_takes_the_place_of_its_old_link(server: Server) -> None:
    old = await server.join()
    await server.join()
    assert await old.closed() == 1001
    await server.world.settle()
    assert server.world.cluster.nodes.online_link("n")


async def test_a_broken_link_shows_as_offline_at_once(server: Server) -> None:
    wire = await server.join()
    protocol = wire.socket.protocol
    assert protocol is not None
    assert protocol.stream is not None
    protocol.stream.close()
    await until(lambda: not server.world.cluster.nodes.online_link("n"))


async def test_nothing_is_believed_before_hello(server: Server) -> None:
    await server.join("m", uid="m")
    (task_id,) = await server.submitted(targets=["m"])
    wire = await server.wire("m")
    await wire.say(KnownEnd(), completed(task_id), Heartbeat(metrics=Metrics()))
    await wire.say(hello(uid="m"))
    await wire.hear_a(Welcome)
    assert (await server.world.record(task_id)).status is TaskState.ASSIGNING


# -- garbage ------------------------------------------------------------------------------


@pytest.mark.parametrize("welcomed", [False, True])
@pytest.mark.parametrize(
    "frame",
    [
        b"\x00garbage",
        b"",
        "text",
        '{"type": "KnownEnd"}',
        encode(Acknowledge(task_id=1)),
        b"\x82\xa4type\xa8KnownEnd\xa1x" + b"\x91" * 100_000 + b"\xc0",
        b"\x81\xa4type\xa2\xff\xff",
    ],
    ids=["garbage", "empty", "text", "json", "hosts", "deep", "utf8"],
)
async def test_what_is_no_message_closes_the_link(
    server: Server, frame: bytes | str, *, welcomed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    wire = await (server.join() if welcomed else server.wire())
    await wire.socket.write_message(frame, binary=isinstance(frame, bytes))
    assert await wire.closed() == 1002
    await until(lambda: not server.world.cluster.nodes.online_link("n"))
    assert "Traceback" not in caplog.text
    assert "sent what is no message" in caplog.text


async def test_another_hello_on_the_same_link_does_no_harm(server: Server) -> None:
    wire = await server.join()
    await wire.say(hello(), KnownEnd())
    await wire.closed()
    await server.world.settle()
    assert not server.world.cluster.nodes.online_link("n")
    await server.join()


# -- tasks --------------------------------------------------------------------------------


async def test_a_task_over_the_wire(server: Server) -> None:
    wire = await server.join()
    (task_id,) = await server.submitted(arguments=["", "é\n"], env_vars={"A": "b"})
    launch = await wire.hear_a(Launch)
    assert launch.spec.arguments == ("", "é\n")
    await wire.say(started(task_id), completed(task_id, exit_code=0))
    assert (await wire.hear_a(Acknowledge)).task_id == task_id
    task = await server.get(f"/status/{task_id}")
    assert (task["status"], task["exit_code"]) == ("completed", 0)
    assert task["started_at"] == "1970-01-01T00:00:01+00:00"
    assert task["stdout_path"] == "/o"


async def test_an_end_right_after_the_exchange_keeps_its_start(server: Server) -> None:
    await server.join("n", node_info(range(8)))
    ids = await server.submitted(targets=["n"] * 8)
    records = [await server.world.record(task_id) for task_id in ids]
    server.wires[0].socket.close()
    await until(lambda: not server.world.cluster.nodes.online_link("n"))
    wire = await server.wire()
    await wire.say(hello(node_info(range(8))))
    await wire.hear_a(Welcome)
    told = [known(record, at=1.0) for record in records]
    await wire.say(*told, KnownEnd(), *(completed(task_id) for task_id in ids))
    acknowledged = {(await wire.hear_a(Acknowledge)).task_id for _ in ids}
    assert acknowledged == set(ids)
    for task_id in ids:
        record = await server.world.record(task_id)
        assert (record.status, record.started_at) == (TaskState.COMPLETED, 1.0)
        assert record.stdout_path == "/o"


async def test_a_launch_that_is_too_large_for_a_frame_is_fetched(server: Server) -> None:
    wire = await server.join("n", node_info([0]))
    await server.join("m", uid="m")
    script = "#" * MAX_FRAME
    first, second = await server.submitted(targets=["n", "n"], script=script, command=None)
    waiting = await wire.hear_a(LaunchWaiting)
    assert waiting.task_id == first
    path = f"/api/runner/launch/{first}?name="
    fetched = await server.ask(f"{path}n", token=runner_token(SECRET, "n"))
    assert fetched.code == 200
    launch = msgspec.msgpack.decode(fetched.body, type=Launch)
    assert launch.spec.script == script.encode()
    # Only the node itself, only its own task, and only while it is to start.
    assert (await server.ask(f"{path}n")).code == 401
    assert (await server.ask(f"{path}n", token=runner_token(SECRET, "m"))).code == 401
    assert (await server.ask(f"{path}m", token=runner_token(SECRET, "m"))).code == 409
    other = f"/api/runner/launch/{second}?name=n"
    assert (await server.ask(other, token=runner_token(SECRET, "n"))).code == 409
    await wire.say(started(first))
    await server.world.settle()
    await until(lambda: server.world.cluster.tasks[first].status is TaskState.RUNNING)
    assert (await server.ask(f"{path}n", token=runner_token(SECRET, "n"))).code == 409


async def test_messages_about_a_task_are_handled_in_their_order(server: Server) -> None:
    wire = await server.join("n", node_info(range(20)))
    ids = await server.submitted(targets=["n"] * 20)
    for task_id in ids:
        await wire.say(started(task_id), completed(task_id))
    heard = [await wire.hear() for _ in range(40)]
    assert len([message for message in heard if isinstance(message, Acknowledge)]) == 20
    for task_id in ids:
        assert (await server.world.record(task_id)).started_at == 1.0
    assert server.world.free() == set(range(20))


async def test_heartbeats_are_heard(server: Server) -> None:
    wire = await server.join()
    node = server.world.cluster.nodes.get("n")
    node.heard = 0.0
    await wire.say(Heartbeat(metrics=Metrics(cpu_percent=77.0)))
    await until(lambda: node.metrics.cpu_percent == 77.0)
    assert node.heard > 0


async def test_many_links_at_once(server: Server) -> None:
    names = [f"n{index}" for index in range(20)]
    await asyncio.gather(*(server.join(name, uid=name) for name in names))
    assert {view.hostname for view in server.world.cluster.nodes.views()} == set(names)
