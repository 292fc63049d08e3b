from __future__ import annotations

import asyncio
import json
from base64 import b64decode
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import pytest

from hakuriver.errors import Conflict
from hakuriver.host import follow as module
from hakuriver.host.follow import follow
from hakuriver.model.messages import (
    Finished,
    KnownEnd,
    Launch,
    LogChunk,
    LogClose,
    LogCredit,
    LogEnd,
    LogOpen,
    LogOpened,
    LogReset,
    Message,
    Welcome,
)
from hakuriver.model.tasks import Exit, TaskState
from support.host_world import completed, hello, known, node_info, started, until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from support.host_server import Server, Wire

pytestmark = pytest.mark.asyncio


class Follower:
    """Follows a log and keeps what it said."""

    def __init__(self, server: Server, task_id: int, **request: Any) -> None:
        asked = LogOpen(subscription=0, task_id=task_id, stream="stdout", follow=True, **request)
        self.lines: list[Any] = []
        self._work = asyncio.ensure_future(self._take(follow(server.services, asked)))

    async def _take(self, source: AsyncGenerator[bytes, None]) -> None:
        async with aclosing(source):
            async for chunk in source:
                self.lines += [json.loads(line) for line in chunk.splitlines()]

    @property
    def content(self) -> bytes:
        parts = [
            line["data"].encode() if "data" in line else b64decode(line["b64"])
            for line in self.lines
            if "data" in line or "b64" in line
        ]
        return b"".join(parts)

    async def has(self, content: bytes) -> None:
        await until(lambda: self.content == content, what=f"{self.content!r}")

    async def end(self) -> Any:
        """Return how the log ended."""
        await asyncio.wait_for(self._work, 30)
        assert [line for line in self.lines if "end" in line] == self.lines[-1:]
        return self.lines[-1]["end"]

    async def stop(self) -> None:
        self._work.cancel()
        await asyncio.gather(self._work, return_exceptions=True)


async def opened(wire: Wire, *, offset: int = 0) -> LogOpen:
    """Answer the host's next request for a log, and return it."""
    while not isinstance(request := await wire.hear(), LogOpen):
        assert request is not None
    await wire.say(LogOpened(subscription=request.subscription, size=offset, offset=offset))
    return request


async def running(server: Server) -> tuple[Wire, int]:
    wire = await server.join()
    (task_id,) = await server.submitted()
    await wire.hear_a(Launch)
    await wire.say(started(task_id))
    await until(lambda: server.world.cluster.tasks[task_id].status is TaskState.RUNNING)
    return wire, task_id


async def test_a_log_is_followed_to_its_end(server: Server) -> None:
    wire, task_id = await running(server)
    follower = Follower(server, task_id)
    log = (await opened(wire)).subscription
    await wire.say(LogChunk(subscription=log, offset=0, data="aé".encode()[:2]))
    await follower.has(b"a")
    await wire.say(LogChunk(subscription=log, offset=2, data="é".encode()[1:] + b"\xff"))
    await follower.has("aé".encode() + b"\xff")
    assert await wire.hear_a(LogCredit) == LogCredit(subscription=log, size=2)
    # The end of the log may come before the end of the task, and the other way round.
    await wire.say(LogEnd(subscription=log, size=4), completed(task_id))
    assert await follower.end() == {"status": "completed", "size": 4}
    assert [line["offset"] for line in follower.lines[:-1]] == [0, 1]
    assert server.services.subscriptions._open == {}


@pytest.mark.parametrize("script", [None, "print(1)"])
async def test_a_queued_task_is_waited_for(server: Server, script: str | None) -> None:
    wire = await server.join("n", node_info([0]))
    fields = {"command": None, "script": script} if script else {}
    first, second = await server.submitted(targets=["n", "n"], **fields)
    await wire.hear_a(Launch)
    follower = Follower(server, second)
    await wire.say(completed(first))
    said: list[Message | None] = []
    while not any(isinstance(message, Launch) for message in said):
        said.append(await wire.hear())
    # Before the launch has come the node would say that there is no such log.
    assert not [message for message in said if isinstance(message, LogOpen)]
    await wire.say(started(second))
    log = (await opened(wire)).subscription
    await wire.say(LogChunk(subscription=log, offset=0, data=b"x"))
    await wire.say(LogEnd(subscription=log, size=1), completed(second))
    assert (await follower.end())["size"] == 1
    assert follower.content == b"x"


async def test_a_task_that_never_runs_has_an_empty_log(server: Server) -> None:
    wire = await server.join("n", node_info([0]))
    _, second = await server.submitted(targets=["n", "n"])
    follower = Follower(server, second)
    await server.world.cluster.kill(second)
    assert await follower.end() == {"status": "killed", "size": 0}
    await wire.hear_a(Launch)


async def test_a_log_goes_on_where_it_was_when_its_node_is_back(server: Server) -> None:
    wire, task_id = await running(server)
    follower = Follower(server, task_id)
    log = (await opened(wire)).subscription
    # The last character is not whole: it comes again.
    await wire.say(LogChunk(subscription=log, offset=0, data=b"abc\xe2\x82"))
    await follower.has(b"abc")
    wire.socket.close()
    await until(lambda: not server.world.cluster.nodes.online_link("n"))
    wire = await server.join(told=[known(await server.world.record(task_id), at=1.0)])
    request = await opened(wire, offset=3)
    assert (request.offset, request.tail, request.follow) == (3, None, True)
    rest = "€d".encode()
    await wire.say(
        LogChunk(subscription=request.subscription, offset=3, data=rest),
        LogEnd(subscription=request.subscription, size=7),
        completed(task_id),
    )
    assert (await follower.end())["size"] == 7
    assert follower.content == "abc€d".encode()


async def test_a_tail_stays_a_tail_when_the_link_breaks_before_it_is_opened(
    server: Server,
) -> None:
    wire, task_id = await running(server)
    follower = Follower(server, task_id, tail=2)
    assert (await wire.hear_a(LogOpen)).tail == 2
    wire.socket.close()
    await until(lambda: not server.world.cluster.nodes.online_link("n"))
    wire = await server.join(told=[known(await server.world.record(task_id), at=1.0)])
    assert (await wire.hear_a(LogOpen)).tail == 2
    await follower.stop()


async def test_a_file_that_shrank_is_told(server: Server) -> None:
    wire, task_id = await running(server)
    follower = Follower(server, task_id)
    log = (await opened(wire)).subscription
    await wire.say(
        LogChunk(subscription=log, offset=0, data=b"long"),
        LogReset(subscription=log),
        LogChunk(subscription=log, offset=0, data=b"x"),
        LogEnd(subscription=log, size=1),
        completed(task_id),
    )
    assert (await follower.end())["size"] == 1
    assert [line.get("offset", "reset") for line in follower.lines[:-1]] == [0, "reset", 0]


async def test_the_log_of_a_task_whose_node_stays_away_ends_without_it(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_NODE_SECONDS", 0.05)
    wire, task_id = await running(server)
    await wire.say(completed(task_id))
    await until(lambda: task_id not in server.world.cluster.tasks)
    wire.socket.close()
    await until(lambda: not server.world.cluster.nodes.online_link("n"))
    assert await Follower(server, task_id).end() == {"status": "completed", "size": 0}


async def test_a_lost_task_is_told_as_such(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_NODE_SECONDS", 0.05)
    wire, task_id = await running(server)
    follower = Follower(server, task_id)
    await opened(wire)
    wire.socket.close()
    await until(lambda: not server.world.cluster.nodes.online_link("n"))
    await server.world.settle()
    # It waits for the node now, with no word of the link's end left to wake it.
    await until(lambda: "n" in server.world.cluster.nodes.moved._events)
    record = server.world.cluster.tasks[task_id]
    await server.world.cluster.end(record, TaskState.LOST, "silent")
    assert (await follower.end())["status"] == "lost"


async def test_whoever_stops_following_closes_the_log(server: Server) -> None:
    wire, task_id = await running(server)
    follower = Follower(server, task_id)
    log = (await opened(wire)).subscription
    await follower.stop()
    assert await wire.hear_a(LogClose) == LogClose(subscription=log)
    # What is still on its way is dropped.
    await wire.say(LogChunk(subscription=log, offset=0, data=b"x"))
    assert server.services.subscriptions._open == {}


async def test_a_log_that_cannot_be_read_is_told(server: Server) -> None:
    wire, task_id = await running(server)
    for query in ("", "?follow=1"):
        asking = asyncio.ensure_future(server.ask(f"/task/{task_id}/stdout{query}"))
        request = None
        while not isinstance(request, LogOpen):
            request = await wire.hear()
        fault = LogOpened(subscription=request.subscription, size=0, offset=0, error="a link")
        await wire.say(fault)
        response = await asking
        assert response.code == 409
        assert "a link" in json.loads(response.body)["detail"]


async def test_a_log_that_ends_short_of_its_size_is_no_whole_answer(server: Server) -> None:
    wire, task_id = await running(server)
    asking = asyncio.ensure_future(server.ask(f"/task/{task_id}/stdout"))
    request = await wire.hear_a(LogOpen)
    number = request.subscription
    await wire.say(
        LogOpened(subscription=number, size=10, offset=0),
        LogChunk(subscription=number, offset=0, data=b"short"),
        LogEnd(subscription=number, size=5),
    )
    with pytest.raises(Exception, match="closed"):
        await asking


async def test_what_is_told_twice_shows_once_and_a_gap_is_asked_for_anew(server: Server) -> None:
    wire, task_id = await running(server)
    follower = Follower(server, task_id)
    log = (await opened(wire)).subscription
    first = LogChunk(subscription=log, offset=0, data=b"one ")
    await wire.say(LogOpened(subscription=log, size=0, offset=0), first, first)
    await follower.has(b"one ")
    await wire.say(first, LogChunk(subscription=log, offset=9, data=b"three"))
    again = await opened(wire, offset=4)
    assert again.offset == 4
    await wire.say(LogChunk(subscription=again.subscription, offset=4, data=b"two"))
    await follower.has(b"one two")
    await follower.stop()


async def test_the_log_of_what_ended_unheard_can_be_followed(server: Server) -> None:
    wire = await server.join()
    (task_id,) = await server.submitted()
    record = await server.world.record(task_id)
    wire.socket.close()
    await until(lambda: not server.world.cluster.nodes.online_link("n"))
    follower = Follower(server, task_id)
    end = Exit(status=TaskState.COMPLETED, exit_code=0, completed_at=2.0)
    wire = await server.wire()
    await wire.say(hello())
    await wire.hear_a(Welcome)
    await wire.say(known(record, at=1.0, end=end), KnownEnd())
    await wire.say(Finished(task_id=task_id, exit=end))
    log = (await opened(wire)).subscription
    await wire.say(LogChunk(subscription=log, offset=0, data=b"whole"))
    await wire.say(LogEnd(subscription=log, size=5))
    assert await follower.end() == {"status": "completed", "size": 5}
    assert follower.content == b"whole"


async def test_an_unreadable_log_ends_the_follow_with_its_reason(server: Server) -> None:
    wire, task_id = await running(server)
    asked = LogOpen(subscription=0, task_id=task_id, stream="stdout", follow=True)
    source = follow(server.services, asked)
    pull = asyncio.ensure_future(anext(source))
    request = await wire.hear_a(LogOpen)
    await wire.say(LogOpened(subscription=request.subscription, size=0, offset=0, error="because"))
    with pytest.raises(Conflict, match="because"):
        await pull
