"""A host for tests of the runner: speaks the link's protocol and keeps what the runner says."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, TypeVar

from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port
from tornado.web import Application, HTTPError, RequestHandler
from tornado.websocket import WebSocketHandler

from hakuriver.model.messages import (
    FromRunner,
    Hello,
    Launch,
    LaunchWaiting,
    Message,
    Refuse,
    Welcome,
    encode,
    messages_from_runner,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

M = TypeVar("M", bound=Message)


class FakeHost:
    """One node's host. `said` holds everything the runner ever said, in order."""

    def __init__(self) -> None:
        self.said: list[FromRunner] = []
        self.tokens: list[str | None] = []
        self.refusals: list[Refuse] = []
        self.waiting: dict[int, Launch] = {}
        self.sessions = 0
        self.accepts = True
        self.link: _Link | None = None
        self._changed = asyncio.Condition()
        self._server: HTTPServer | None = None
        self.port = 0

    def start(self, port: int | None = None) -> None:
        socket, self.port = bind_unused_port() if port is None else (None, port)
        routes = [
            (r"/api/runner", _Link, {"host": self}),
            (r"/api/runner/launch/(\d+)", _Waiting, {"host": self}),
        ]
        self._server = HTTPServer(Application(routes))
        if socket is not None:
            self._server.add_socket(socket)
        else:
            self._server.listen(port or 0, "127.0.0.1")

    async def stop(self) -> None:
        self.drop()
        if self._server is not None:
            self._server.stop()
            await self._server.close_all_connections()
            self._server = None

    def drop(self) -> None:
        if self.link is not None:
            self.link.close()
            self.link = None

    def send(self, *messages: Message) -> None:
        assert self.link is not None
        for message in messages:
            self.link.write_message(encode(message), binary=True)

    def launch_later(self, launch: Launch) -> None:
        self.waiting[launch.task_id] = launch
        self.send(LaunchWaiting(task_id=launch.task_id))

    async def wait_for(
        self,
        kind: type[M],
        wanted: Callable[[M], bool] = lambda _: True,
        *,
        since: int = 0,
        timeout: float = 30.0,  # noqa: ASYNC109
    ) -> M:
        """Return the first message of `kind` from the index `since` on that is `wanted`."""

        def found() -> M | None:
            for message in self.said[since:]:
                if isinstance(message, kind) and wanted(message):
                    return message
            return None

        async with asyncio.timeout(timeout), self._changed:
            while (message := found()) is None:
                await self._changed.wait()
            return message

    async def hear(self, link: _Link, message: FromRunner) -> None:
        if isinstance(message, Hello):
            if self.refusals:
                link.write_message(encode(self.refusals.pop(0)), binary=True)
                link.close()
                return
            self.sessions += 1
            self.link = link
            self.send(Welcome(cluster_id="c1", heartbeat_interval=0.2, version="0"))
        async with self._changed:
            self.said.append(message)
            self._changed.notify_all()


class _Link(WebSocketHandler):
    def initialize(self, host: FakeHost) -> None:
        self._host = host

    def prepare(self) -> None:
        if not self._host.accepts:
            raise HTTPError(401)

    def open(self, *_: str, **__: str) -> None:
        self.set_nodelay(True)
        self._host.tokens.append(self.request.headers.get("Authorization"))

    def on_close(self) -> None:
        if self._host.link is self:
            self._host.link = None

    async def on_message(self, message: str | bytes) -> None:
        assert isinstance(message, bytes)
        for one in messages_from_runner(message):
            await self._host.hear(self, one)


class _Waiting(RequestHandler):
    def initialize(self, host: FakeHost) -> None:
        self._host = host

    def get(self, task_id: str) -> None:
        self._host.tokens.append(self.request.headers.get("Authorization"))
        self.write(encode(self._host.waiting[int(task_id)]))


@contextlib.asynccontextmanager
async def fake_host() -> AsyncIterator[FakeHost]:
    """A host that listens on a free port of the loopback."""
    host = FakeHost()
    host.start()
    try:
        yield host
    finally:
        await host.stop()
