from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import psutil
import pytest
import pytest_asyncio

from hakuriver.host import feed as feed_module
from hakuriver.host.api import base
from hakuriver.model.views import Event
from support.host_server import TOKEN, Server, Stream, open_server
from support.host_world import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.asyncio
_NAME = "n" * 2000


@pytest_asyncio.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with open_server(tmp_path / "h.db") as server:
        yield server


async def publish(server: Server, count: int) -> None:
    """Have so many changes of 2 kB each happen, as fast as followers can be served."""
    feed = server.world.cluster.feed
    for number in range(count):
        feed.publish(Event(rev=feed.rev + 1, forgotten=_NAME))
        if number % 100 == 0:
            await asyncio.sleep(0)


async def deaf_follower(server: Server) -> socket.socket:
    """Follow the changes, and read no more than that the answer has begun."""
    deaf = socket.socket()
    deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    deaf.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(deaf, ("127.0.0.1", server.port))
    ask = f"GET /api/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
    await loop.sock_sendall(deaf, ask.encode())
    assert await loop.sock_recv(deaf, 16) == b"HTTP/1.1 200 OK\r"
    return deaf


def is_cut(deaf: socket.socket) -> bool:
    """Whether the host has closed its end; to read here would be what it waits for."""
    port = deaf.getsockname()[1]
    there = psutil.Process().net_connections("tcp4")
    return not any(one.raddr and one.raddr[1] == port for one in there)


async def test_a_follower_that_does_not_read_disturbs_no_other(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Signs of life bear how far a follower is, also past what was never in the store.
    monkeypatch.setattr(feed_module, "KEEP_ALIVE_SECONDS", 0.1)
    start = server.world.cluster.feed.rev
    deaf = await deaf_follower(server)
    reads = await Stream.open(server, f"/api/events?after={start}")
    seen: list[int] = []

    async def read() -> None:
        while not seen or seen[-1] < start + 8000:
            seen.append((await reads.json())["rev"])

    reading = asyncio.create_task(read())
    await publish(server, 8000)
    await asyncio.wait_for(reading, 50)
    assert seen == sorted(seen)
    assert not is_cut(deaf)
    deaf.close()
    await reads.leave()


async def test_a_follower_that_does_not_read_is_cut_off_and_may_come_back(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed = server.world.cluster.feed
    # Nobody else is there meanwhile, who could be cut off because this machine is slow.
    with monkeypatch.context() as patch:
        patch.setattr(base, "STALL_SECONDS", 0.2)
        deaf = await deaf_follower(server)
        await publish(server, 8000)
        await until(lambda: is_cut(deaf), what="it is cut off")
    deaf.close()
    assert server.world.cluster.tally.stalled == 1
    # It comes back with the last rev that it has got.
    again = await Stream.open(server, f"/api/events?after={feed.rev - 3}")
    revs = [(await again.json())["rev"] for _ in range(4)]
    assert revs == [feed.rev - 3, feed.rev - 2, feed.rev - 1, feed.rev]
    await again.leave()
