from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from tornado.testing import bind_unused_port
from tornado.web import Application, RequestHandler

from hakuriver import tls
from hakuriver.host import bodies
from hakuriver.host.listening import Server
from hakuriver.host.strangers import Strangers
from hakuriver.host.tally import Tally
from support.certificates import make_files

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.asyncio
LIMIT = 300_000
CHUNK = b"2710\r\n" + b"x" * 10_000 + b"\r\n"
END = b"0\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
WAYS = ["chunked", "announced"]


def head_of(length: int) -> bytes:
    return f"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n".encode()


class Measure(RequestHandler):
    def post(self) -> None:
        self.write(f"{len(self.request.body)} bytes")


class Place:
    """A server that takes bodies of `LIMIT` bytes, and what it is asked by."""

    def __init__(self, context: ssl.SSLContext | None, trust: ssl.SSLContext | None) -> None:
        self.strangers = Strangers()
        self.tally = Tally()
        self.server = Server(
            Application([("/", Measure)]),
            context=context,
            strangers=self.strangers,
            tally=self.tally,
        )
        found, self.port = bind_unused_port()
        self.server.add_socket(found)
        self.trust = trust

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port, ssl=self.trust)


@pytest_asyncio.fixture(params=["plain", "TLS"])
async def place(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Place]:
    monkeypatch.setattr(bodies, "MAX_BODY", LIMIT)
    context = trust = None
    if request.param == "TLS":
        files = make_files(tmp_path)
        served = tls.serving(files.network)
        assert served is not None
        context, trust = served.context, tls.trusting(str(files.ca))
    place = Place(context, trust)
    yield place
    place.server.stop()
    await place.server.close_all_connections()
    assert len(place.strangers) == 0


async def test_a_body_up_to_the_limit_is_taken_and_the_next_one_too(place: Place) -> None:
    reader, writer = await place.open()
    for size in (LIMIT, 0):
        writer.write(CHUNKED + CHUNK * (size // 10_000) + END)
        async with asyncio.timeout(30):
            answer = await reader.readuntil(b" bytes")
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.endswith(f"\r\n{size} bytes".encode())
    assert not place.tally.requests
    writer.close()


@pytest.mark.parametrize("head", [CHUNKED, head_of(LIMIT + 1)], ids=WAYS)
async def test_the_connection_ends_with_the_body(place: Place, head: bytes) -> None:
    reader, writer = await place.open()
    rest = CHUNK * 31 + END if head is CHUNKED else b"x" * (LIMIT + 1)
    writer.write(head + rest)
    async with asyncio.timeout(30):
        answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert answer.count(b"HTTP/1.1") == 1
    assert b'{"detail":' in answer
    assert place.tally.requests == {("BoundedBody", "POST", 413): 1}
    writer.close()


async def test_a_made_up_method_makes_no_new_figure(place: Place) -> None:
    for method in (b"PURGE", b"BREW"):
        reader, writer = await place.open()
        writer.write(method + head_of(LIMIT + 1).removeprefix(b"POST"))
        async with asyncio.timeout(5):
            assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")
        writer.close()
    assert place.tally.requests == {("BoundedBody", "other", 413): 2}


@pytest.mark.parametrize("head", [CHUNKED, head_of(9_999_999_999)], ids=WAYS)
async def test_a_body_without_an_end_is_not_read_for_ever(
    place: Place, head: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "_DRAIN_SECONDS", 0.3)
    reader, writer = await place.open()
    loop = asyncio.get_running_loop()
    begin = loop.time()

    async def pour() -> None:
        writer.write(head)
        while True:
            writer.write(CHUNK)
            await writer.drain()
            await asyncio.sleep(0.001)

    pouring = asyncio.create_task(pour())
    async with asyncio.timeout(30):
        line = await reader.readline()
        assert line.startswith(b"HTTP/1.1 413 ")
        # It is told early, and not cut off before the time.
        await asyncio.wait({pouring})
    assert isinstance(pouring.exception(), ConnectionError)
    assert loop.time() - begin >= 0.3
    writer.close()
