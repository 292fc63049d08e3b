from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from hakuriver.model.messages import (
    Launch,
    LogChunk,
    LogClose,
    LogEnd,
    LogOpen,
    LogOpened,
    Started,
)
from support.host_server import Stream, detail
from support.host_world import node_info, until

if TYPE_CHECKING:
    from support.host_server import Server

pytestmark = pytest.mark.asyncio


async def test_the_log_of_a_task_that_has_not_started_is_empty(server: Server) -> None:
    await server.join("n", node_info([0]))
    for task_id in await server.submitted(targets=["n", "n"]):
        response = await server.ask(f"/task/{task_id}/stderr", Range="bytes=5-")
        assert (response.code, response.body) == (200, b"")


async def test_the_log_of_a_node_that_is_away_can_be_read_later(server: Server) -> None:
    await server.join()
    (task_id,) = await server.submitted()
    await server.world.start(task_id)
    server.wires[0].socket.close()
    await until(lambda: not server.world.cluster.nodes.online_link("n"))
    response = await server.ask(f"/task/{task_id}/stdout")
    assert response.code == 503
    assert "n is offline" in detail(response)


async def test_a_follower_that_leaves_ends_the_sending(server: Server) -> None:
    wire = await server.join()
    (task_id,) = await server.submitted()
    await wire.hear_a(Launch)
    await wire.say(Started(task_id=task_id, started_at=1.0, stdout_path="/o", stderr_path="/e"))
    stream = await Stream.open(server, f"/task/{task_id}/stdout?follow=1")
    opened = await wire.hear_a(LogOpen)
    assert (opened.task_id, opened.stream, opened.follow) == (task_id, "stdout", True)
    await wire.say(LogOpened(subscription=opened.subscription, size=0, offset=0))
    await stream.leave()
    assert await wire.hear_a(LogClose) == LogClose(subscription=opened.subscription)
    assert server.services.subscriptions._open == {}


@pytest.mark.parametrize("query", ["offset=-1", "offset=x", "tail=-1", f"offset={1 << 70}"])
async def test_a_place_in_a_log_must_be_a_number(server: Server, query: str) -> None:
    await server.join()
    (task_id,) = await server.submitted()
    for follow in ("", "&follow=1"):
        assert (await server.ask(f"/task/{task_id}/stdout?{query}{follow}")).code == 422


@pytest.mark.parametrize(
    ("wanted", "offset", "limit", "content_range"),
    [
        ("bytes=0-4", 0, 5, "bytes 0-4/10"),
        ("bytes=5-", 5, 5, "bytes 5-9/10"),
        ("bytes=-3", 7, 3, "bytes 7-9/10"),
        ("bytes=8-99", 8, 2, "bytes 8-9/10"),
        ("bytes=-99", 0, 10, "bytes 0-9/10"),
    ],
)
async def test_ranges(
    server: Server, wanted: str, offset: int, limit: int, content_range: str
) -> None:
    wire = await server.join()
    (task_id,) = await server.submitted()
    await wire.hear_a(Launch)
    await server.world.start(task_id)
    asking = asyncio.ensure_future(server.ask(f"/task/{task_id}/stdout", Range=wanted))
    probe = await wire.hear_a(LogOpen)
    assert probe.limit == 0
    await wire.say(LogOpened(subscription=probe.subscription, size=10, offset=0))
    await wire.hear_a(LogClose)
    opened = await wire.hear_a(LogOpen)
    assert (opened.offset, opened.limit) == (offset, limit)
    content = b"0123456789"[offset : offset + limit]
    await wire.say(
        LogOpened(subscription=opened.subscription, size=10, offset=offset),
        LogChunk(subscription=opened.subscription, offset=offset, data=content),
        LogEnd(subscription=opened.subscription, size=10),
    )
    response = await asking
    assert (response.code, response.body) == (206, content)
    assert response.headers["Content-Range"] == content_range


async def test_a_range_behind_the_end_is_told(server: Server) -> None:
    wire = await server.join()
    (task_id,) = await server.submitted()
    await wire.hear_a(Launch)
    await server.world.start(task_id)
    asking = asyncio.ensure_future(server.ask(f"/task/{task_id}/stdout", Range="bytes=10-"))
    probe = await wire.hear_a(LogOpen)
    await wire.say(LogOpened(subscription=probe.subscription, size=10, offset=0))
    response = await asking
    assert (response.code, response.headers["Content-Range"]) == (416, "bytes */10")
