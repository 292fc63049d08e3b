"""A host's application on a free port of this process, asked over real HTTP and WebSockets."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from tornado.httpclient import AsyncHTTPClient, HTTPRequest, HTTPResponse
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port
from tornado.websocket import WebSocketClientConnection, websocket_connect

from hakuriver.config import Config, Security
from hakuriver.host.app import make_app
from hakuriver.host.auth import Gate
from hakuriver.host.logs import Subscriptions
from hakuriver.host.services import Services
from hakuriver.model.auth import runner_token
from hakuriver.model.messages import (
    FromHost,
    Heartbeat,
    KnownEnd,
    Message,
    Welcome,
    encode,
    messages_from_host,
)
from hakuriver.model.nodes import Metrics
from support.host_world import hello, open_world

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from hakuriver.host.rates import Rate
    from hakuriver.model.messages import Known
    from hakuriver.model.nodes import NodeInfo
    from support.host_world import World

M = TypeVar("M", bound=Message)
TOKEN = "alices-token"
SECRET = "runners-secret"
CONFIG = Config(security=Security(runner_secret=SECRET, tokens={"alice": TOKEN}))
_SECONDS = 30.0


class Wire:
    """A runner's end of the link, as a test plays it."""

    def __init__(self, socket: WebSocketClientConnection) -> None:
        self.socket = socket
        self.over = False
        self._heard: list[FromHost] = []

    async def say(self, *messages: Message) -> None:
        for message in messages:
            await self.socket.write_message(encode(message), binary=True)

    async def hear(self) -> FromHost | None:
        """Return the next message, None once the link has closed."""
        if not self._heard:
            frame = await asyncio.wait_for(self.socket.read_message(), _SECONDS)
            if frame is None:
                self.over = True
                return None
            self._heard = messages_from_host(frame)  # type: ignore[arg-type]
        return self._heard.pop(0)

    async def hear_a(self, kind: type[M]) -> M:
        """Return the next message, which must be of one kind."""
        message = await self.hear()
        assert isinstance(message, kind), message
        return message

    async def closed(self) -> int | None:
        """Return the code with which the host closed, once it has."""
        while not self.over:
            await self.hear()
        return self.socket.close_code


def detail(response: HTTPResponse) -> Any:
    """Return what an error's body says."""
    assert response.headers["Content-Type"] == "application/json"
    return json.loads(response.body)["detail"]


def body_of(response: HTTPResponse, code: int) -> Any:
    """Return the JSON of an answer with this code."""
    assert response.code == code, response.body
    assert response.headers["Content-Type"] == "application/json"
    return json.loads(response.body)


class Stream:
    """One streamed answer, read by hand so that the client can leave it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.head = b""

    @classmethod
    async def open(cls, server: Server, path: str, *, body: bytes | None = None) -> Stream:
        """Ask for a stream, with POST if there is a body, and read the head of its answer."""
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        head = f"{'GET' if body is None else 'POST'} {path} HTTP/1.1\r\nHost: localhost\r\n"
        head += f"Authorization: Bearer {TOKEN}\r\n"
        if body is not None:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        writer.write(f"{head}\r\n".encode() + (body or b""))
        stream = cls(reader, writer)
        assert b" 200 " in await stream.line()
        while (line := await stream.line()) != b"\r\n":
            stream.head += line
        return stream

    async def line(self) -> bytes:
        return await asyncio.wait_for(self.reader.readline(), _SECONDS)

    async def json(self) -> Any:
        """Return the next line of NDJSON: one lies in each chunk here."""
        while not (line := await self.line()).startswith(b"{"):
            assert line, "the stream has ended"
        return json.loads(line)

    async def leave(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()


@dataclass
class Server:
    """A host that answers on `port`."""

    world: World
    services: Services
    port: int
    client: AsyncHTTPClient
    wires: list[Wire] = field(default_factory=list)

    async def ask(
        self,
        path: str,
        *,
        method: str = "GET",
        body: bytes | None = None,
        token: str | None = TOKEN,
        **headers: str,
    ) -> HTTPResponse:
        """Send one request; header names are given with _ for -."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if token is not None:
            named["Authorization"] = f"Bearer {token}"
        request = HTTPRequest(
            f"http://127.0.0.1:{self.port}{path}",
            method=method,
            body=body,
            headers=named,
            allow_nonstandard_methods=True,
            request_timeout=_SECONDS,
            follow_redirects=False,
            decompress_response=False,
        )
        return await self.client.fetch(request, raise_error=False)

    async def get(self, path: str) -> Any:
        """Return the JSON of a request that succeeds."""
        response = await self.ask(path)
        assert response.code == 200, response.body
        return json.loads(response.body)

    async def post(
        self, path: str, content: Any = None, *, token: str | None = TOKEN
    ) -> HTTPResponse:
        """Send JSON; bytes go as they are, None as an empty body."""
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        if content is None:
            return await self.ask(path, method="POST", body=b"", token=token)
        return await self.ask(
            path, method="POST", body=body, token=token, Content_Type="application/json"
        )

    async def submit(self, **fields: Any) -> HTTPResponse:
        return await self.post("/api/submit", fields)

    async def submitted(self, **fields: Any) -> list[int]:
        """Return the ids of a submission that succeeds."""
        response = await self.submit(**{"command": "true", **fields})
        assert response.code == 202, response.body
        return [int(task_id) for task_id in json.loads(response.body)["task_ids"]]

    async def wire(self, name: str = "n", *, token: str | None = None) -> Wire:
        """Open a runner's link; raises `HTTPClientError` where it is refused."""
        bearer = runner_token(SECRET, name) if token is None else token
        request = HTTPRequest(
            f"ws://127.0.0.1:{self.port}/api/runner?name={name}",
            headers={"Authorization": f"Bearer {bearer}"},
        )
        wire = Wire(await websocket_connect(request))
        self.wires.append(wire)
        return wire

    async def join(
        self,
        name: str = "n",
        info: NodeInfo | None = None,
        *,
        told: Sequence[Known] = (),
        uid: str = "uid",
    ) -> Wire:
        """Bring a node online over a link of its own."""
        wire = await self.wire(name)
        await wire.say(hello(info, uid=uid))
        await wire.hear_a(Welcome)
        await wire.say(*told, KnownEnd(), Heartbeat(metrics=Metrics(cpu_percent=5.0)))
        async with asyncio.timeout(_SECONDS):
            while not self.world.cluster.nodes.online_link(name):
                moved = self.world.cluster.nodes.moved.next(name)
                if not self.world.cluster.nodes.online_link(name):
                    await moved.wait()
        return wire


@asynccontextmanager
async def open_server(
    path: Path, config: Config = CONFIG, *, requests: Rate | None = None
) -> AsyncIterator[Server]:
    """Serve a host whose database is `path`, and leave nothing of it behind.

    `requests` is how often one token may ask, by default as often as of any host.
    """
    async with open_world(path) as world:
        services = Services(config, Gate(config), world.cluster, Subscriptions(world.cluster.tally))
        if requests is not None:
            services = replace(services, requests=requests)
        http = HTTPServer(make_app(services), max_body_size=40 << 20)
        socket, port = bind_unused_port()
        http.add_socket(socket)
        client = AsyncHTTPClient(force_instance=True, max_body_size=40 << 20)
        server = Server(world, services, port, client)
        try:
            yield server
        finally:
            for wire in server.wires:
                wire.socket.close()
                await wire.closed()
            client.close()
            http.stop()
            await http.close_all_connections()
            await world.settle()
