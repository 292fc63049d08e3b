"""Runners of other versions: who is served, who is refused, and in which words.

``data/protocol-2.hex`` are the frames of a runner of protocol 2, made by the code of its time.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from hakuriver._version import __version__
from hakuriver.host.reconcile import refusal_of
from hakuriver.model.messages import OLDEST_PROTOCOL, PROTOCOL, Acknowledge, Refuse, Welcome, encode
from hakuriver.model.tasks import TaskState
from support.host_world import hello, until

if TYPE_CHECKING:
    from support.host_server import Server

pytestmark = pytest.mark.asyncio

OLD_FRAMES = Path(__file__).parent / "data" / "protocol-2.hex"


@pytest.mark.parametrize("protocol", range(OLDEST_PROTOCOL, PROTOCOL + 1))
async def test_runners_as_new_as_the_host_or_somewhat_older_are_served(protocol: int) -> None:
    assert refusal_of(protocol, "0.0.9") is None


async def test_a_runner_that_is_too_old_must_be_upgraded() -> None:
    refusal = refusal_of(OLDEST_PROTOCOL - 1, "0.0.1")
    assert refusal is not None
    assert refusal.final
    assert "the runner is hakuriver-jupyter 0.0.1" in refusal.reason
    assert f"the host is {__version__}" in refusal.reason
    assert f"install hakuriver-jupyter {__version__} for the runner" in refusal.reason


async def test_a_runner_newer_than_the_host_tries_until_the_host_is_upgraded() -> None:
    refusal = refusal_of(PROTOCOL + 1, "9.0")
    assert refusal is not None
    assert not refusal.final
    assert "the runner is hakuriver-jupyter 9.0" in refusal.reason
    assert "upgrade the host" in refusal.reason


async def refused(server: Server, frame: bytes) -> Refuse:
    """Say a first word and return with what the host refuses it."""
    wire = await server.wire()
    await wire.socket.write_message(frame, binary=True)
    refusal = await wire.hear_a(Refuse)
    assert await wire.closed() == 1008
    return refusal


def in_other_words(protocol: int, **info: Any) -> bytes:
    """Return a `Hello` that this version cannot read but for what every one holds."""
    word: dict[str, Any] = msgspec.msgpack.decode(encode(hello(protocol=protocol)))
    return msgspec.msgpack.encode({**word, "info": {"version": "9.0", "cpus": "all", **info}})


async def test_a_first_word_that_nobody_can_read_yet_is_understood_so_far(server: Server) -> None:
    refusal = await refused(server, in_other_words(PROTOCOL + 1))
    assert "the runner is hakuriver-jupyter 9.0" in refusal.reason
    refusal = await refused(server, in_other_words(OLDEST_PROTOCOL - 1, version="0.0.1"))
    assert refusal.final
    # Of a protocol that it knows, what it cannot read is no message.
    wire = await server.wire()
    await wire.socket.write_message(in_other_words(PROTOCOL), binary=True)
    assert await wire.closed() == 1002


async def test_a_node_shows_that_its_runner_is_refused_until_it_is_not(server: Server) -> None:
    wire = await server.join()
    wire.socket.close()
    await wire.closed()
    await until(lambda: not server.world.cluster.nodes.online_link("n"))
    await server.world.settle()
    for _ in range(2):
        await refused(server, encode(hello(protocol=PROTOCOL + 1)))
    await server.world.settle()
    (node,) = (await server.get("/api/nodes"))["nodes"]
    assert node["status"] == "offline"
    assert "upgrade the host" in node["refused"]
    rev = node["rev"]
    await refused(server, encode(hello(protocol=PROTOCOL + 1)))
    await server.world.settle()
    assert (await server.get("/api/nodes"))["nodes"][0]["rev"] == rev
    await server.join()
    (node,) = (await server.get("/api/nodes"))["nodes"]
    assert (node["status"], node["refused"]) == ("online", None)


async def test_one_that_is_linked_is_not_called_refused(server: Server) -> None:
    await server.join()
    wire = await server.wire()
    await wire.say(hello(uid="another"))
    await wire.hear_a(Refuse)
    assert server.world.cluster.nodes.views()[0].refused is None


async def test_both_versions_are_logged_where_they_differ(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    await server.join()
    assert f"its runner is hakuriver-jupyter 0, this host {__version__}" in caplog.text


async def test_a_runner_of_protocol_2_is_served_in_its_own_words(server: Server) -> None:
    lines = OLD_FRAMES.read_text("ascii").splitlines()
    first, *told = [bytes.fromhex(line) for line in lines]
    wire = await server.wire("node1")
    await wire.socket.write_message(first, binary=True)
    await wire.hear_a(Welcome)
    for frame in told:
        await wire.socket.write_message(frame, binary=True)
    # A task that it ran, one that it told the end of at once, and one that ended later.
    acknowledged = {(await wire.hear_a(Acknowledge)).task_id for _ in range(2)}
    assert acknowledged == {101, 102}
    await server.world.settle()
    assert await server.world.status(101) is TaskState.COMPLETED
    assert await server.world.status(102) is TaskState.FAILED
    assert await server.world.status(103) is TaskState.RUNNING
