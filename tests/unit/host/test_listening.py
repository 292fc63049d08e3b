from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from tornado.testing import bind_unused_port
from tornado.web import Application, RequestHandler

from hakuriver import tls
from hakuriver.host.listening import Server
from hakuriver.host.strangers import Strangers
from hakuriver.host.tally import Tally
from support.certificates import Files, make_files

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator


pytestmark = pytest.mark.asyncio
ASK = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"


class Hello(RequestHandler):
    def get(self) -> None:
        self.write(self.request.protocol)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return make_files(tmp_path_factory.mktemp("tls"))


@pytest_asyncio.fixture
async def ports(files: Files) -> AsyncIterator[tuple[int, int]]:
    """A plain host's port and that of one that speaks TLS."""
    served = tls.serving(files.network)
    assert served is not None
    servers: list[Server] = []
    found: list[int] = []
    for context in (None, served.context):
        socket, port = bind_unused_port()
        server = Server(
            Application([("/", Hello)]), context=context, strangers=Strangers(), tally=Tally()
        )
        server.add_socket(socket)
        servers.append(server)
        found.append(port)
    yield found[0], found[1]
    for server in servers:
        server.stop()
        await server.close_all_connections()
        assert not server._starting


async def ask(port: int, data: bytes, context: ssl.SSLContext | None = None) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    try:
        writer.write(data)
        async with asyncio.timeout(30):
            return await reader.read()
    finally:
        writer.close()


async def test_each_speaks_its_own(ports: tuple[int, int], files: Files) -> None:
    plain, secure = ports
    assert (await ask(plain, ASK)).endswith(b"\r\n\r\nhttp")
    assert (await ask(secure, ASK, tls.trusting(str(files.ca)))).endswith(b"\r\n\r\nhttps")


async def test_the_wrong_one_is_told_off(ports: tuple[int, int], files: Files) -> None:
    plain, secure = ports
    answer = await ask(secure, ASK + b"x" * 100_000)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"write https://" in answer
    with pytest.raises(OSError, match=r"(?i)ssl") as caught:
        await ask(plain, ASK, tls.trusting(str(files.ca)))
    said = tls.explain(caught.value)
    assert said is not None
    assert "plain HTTP" in said


async def test_who_goes_or_waits_is_no_trouble(
    ports: tuple[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    for port in ports:
        for beginning in (b"", b"\x16", b"\x16\x03\x01\x00\x05nonsense"):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(beginning)
            await writer.drain()
            writer.close()
            await writer.wait_closed()
    waiting = [await asyncio.open_connection("127.0.0.1", port) for port in ports]
    assert (await ask(ports[0], ASK)).endswith(b"http")
    for _, writer in waiting:
        writer.close()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.parametrize(
    "line",
    [
        "Authorization: Bearer {}\x01",
        "Authorization Bearer {}: ",
        "Content-Length: {}",
        "Transfer-Encoding: {}",
        "Host: user:{}@h",
    ],
)
async def test_what_cannot_be_read_is_not_quoted_in_the_log(
    ports: tuple[int, int], caplog: pytest.LogCaptureFixture, line: str
) -> None:
    caplog.set_level("INFO")
    header = line.format("the-token").encode()
    answer = await ask(ports[0], b"GET / HTTP/1.1\r\n" + header + b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert "Malformed HTTP message from 127.0.0.1" in caplog.messages
    assert "the-token" not in caplog.text


@pytest.mark.parametrize("said", [b"", b"GE", b"GET / HTTP/1.1\r\nX: ", ASK[:-2]])
async def test_whoever_takes_too_long_is_let_go(said: bytes) -> None:
    socket, port = bind_unused_port()
    strangers = Strangers()
    application = Application([("/", Hello)])
    server = Server(application, context=None, strangers=strangers, tally=Tally(), patience=0.1)
    server.add_socket(socket)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(said)
        async with asyncio.timeout(30):
            assert await reader.read() == b""
        await asyncio.sleep(0)
        assert len(strangers) == 0
    finally:
        writer.close()
        server.stop()
        await server.close_all_connections()


async def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    socket, port = bind_unused_port()
    strangers = Strangers()
    server = Server(
        Application([("/", Hello)]), context=None, strangers=strangers, tally=Tally(), patience=0.1
    )
    server.add_socket(socket)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 99\r\n\r\nabc")
        async with asyncio.timeout(30):
            assert await reader.read() == b""
    finally:
        writer.close()
        server.stop()
        await server.close_all_connections()
    assert len(strangers) == 0
