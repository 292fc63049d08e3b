"""A host that lets a token ask only now and then, and clients that come back when it said."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from hakuriver import AsyncClient, Client
from hakuriver.host.rates import Rate
from support.host_server import TOKEN, open_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from support.host_server import Server

pytestmark = pytest.mark.asyncio

COUNT = 3


@pytest_asyncio.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with open_server(tmp_path / "h.db", requests=Rate(per_second=1, burst=1)) as server:
        yield server


def answers(server: Server) -> dict[int, int]:
    """Return how many answers of each status there were."""
    counts: dict[int, int] = {}
    for (_, _, status), count in server.world.cluster.tally.requests.items():
        counts[status] = counts.get(status, 0) + count
    return counts


def check_answers(server: Server) -> None:
    """Fail unless each request but the first was refused once at most, and one of them was."""
    counts = answers(server)
    assert counts.pop(200) == COUNT
    # With pauses of its own it would have asked some five times in each of these seconds. On a
    # machine that stands still for a second it need not ask twice.
    assert 1 <= counts.pop(429) <= COUNT - 1
    assert not counts


async def test_the_asynchronous_client_comes_back_when_the_host_said(server: Server) -> None:
    async with AsyncClient(f"http://127.0.0.1:{server.port}", token=TOKEN) as client:
        for _ in range(COUNT):
            assert await client.nodes() == []
    check_answers(server)


async def test_the_time_is_told_in_whole_seconds_and_exactly(server: Server) -> None:
    await server.get("/api/nodes")
    answer = await server.ask("/api/nodes")
    assert answer.code == 429
    assert answer.headers["Retry-After"] == "1"
    told = json.loads(answer.body)
    assert set(told) == {"detail", "retry_after"}
    assert 0 < told["retry_after"] < 1


async def test_who_is_a_moment_too_early_does_not_wait_a_second(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    rate = Rate(per_second=5, burst=1)
    async with (
        open_server(tmp_path / "q.db", requests=rate) as server,
        AsyncClient(f"http://127.0.0.1:{server.port}", token=TOKEN) as client,
    ):
        begin = loop.time()
        while answers(server).get(429, 0) < COUNT:
            await client.nodes()
        # Whole seconds would have been as many as there were refusals.
        assert loop.time() - begin < COUNT


async def test_the_synchronous_client_comes_back_when_the_host_said(server: Server) -> None:
    def ask() -> None:
        with Client(f"http://127.0.0.1:{server.port}", token=TOKEN) as client:
            for _ in range(COUNT):
                assert client.nodes() == []

    await asyncio.to_thread(ask)
    check_answers(server)


async def test_a_stream_is_opened_when_the_host_said(server: Server) -> None:
    async with AsyncClient(f"http://127.0.0.1:{server.port}", token=TOKEN) as client:
        await client.nodes()
        async with client.cluster.events(None) as events:
            assert (await anext(events)).rev >= 0
        assert answers(server).get(429, 0) <= 1
