"""The WebSocket to the host: dialled for ever, one exchange at its start, then messages both ways.

What is sent while the link is down is dropped on purpose: the next exchange tells everything.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol, cast
from urllib.parse import quote

import msgspec
from tornado.httpclient import AsyncHTTPClient, HTTPError, HTTPRequest
from tornado.iostream import StreamClosedError
from tornado.websocket import (
    WebSocketClientConnection,
    WebSocketClosedError,
    WebSocketError,
    websocket_connect,
)

from hakuriver import tls
from hakuriver.errors import HostUnreachable, StartError
from hakuriver.model.messages import (
    FromHost,
    Heartbeat,
    Hello,
    KnownEnd,
    Launch,
    Message,
    Outbox,
    Refuse,
    Welcome,
    decode_from_host,
    encode,
    messages_from_host,
)

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable

    from hakuriver.model.nodes import Metrics

_log = logging.getLogger(__name__)

_FIRST_DELAY = 0.1
_LAST_DELAY = 5.0
_CONNECT = 5.0
_ANSWER = 10.0
_PING = 10.0
_MAX_FRAME = 8 << 20
_MAX_LAUNCH = 64 << 20
_COMPLAIN = 60.0


class _Detail(msgspec.Struct, frozen=True):
    detail: str


class LinkUser(Protocol):
    """Whom the link serves; all calls come on the event loop and must not block."""

    def hello(self) -> Hello:
        """Return the first word of a session."""
        ...

    async def welcomed(self, welcome: Welcome) -> None:
        """The host took this runner in."""

    def known(self) -> tuple[Iterable[Message], Iterable[Message]]:
        """Return what is told before and after `KnownEnd`; from here on changes are sent."""
        ...

    def received(self, message: FromHost) -> None:
        """A message came in."""

    async def unlinked(self) -> None:
        """The session ended."""


class Link:
    """The runner's side of the link.

    Args:
        url: the host's, beginning with ``http``.
        name: the node's.
        token: the node's token; it stands in a header alone.
        trust: with what a host that speaks TLS is asked.
        measure: returns the machine's use; must not take long.
    """

    def __init__(
        self,
        *,
        url: str,
        name: str,
        token: str,
        user: LinkUser,
        measure: Callable[[], Awaitable[Metrics]],
        trust: ssl.SSLContext | None = None,
    ) -> None:
        self._url = url.rstrip("/")
        self._query = f"name={quote(name, safe='')}"
        self._headers = {"Authorization": f"Bearer {token}"}
        self._trust = trust
        tls.leave_to_callers()
        self._user = user
        self._measure = measure
        self._connection: WebSocketClientConnection | None = None
        self._outbox = Outbox(self._flush_soon)
        self._delay = _FIRST_DELAY
        self._complaint = ("", 0.0)

    async def run(self) -> None:
        """Keep the link until cancelled.

        Raises:
            StartError: the host refuses this runner for good.
        """
        while True:
            try:
                await self._session()
            except HTTPError as error:
                self._complain(_explain(error))
            except (OSError, WebSocketError, StreamClosedError) as error:
                self._complain(tls.explain(error) or str(error) or type(error).__name__)
            except (HostUnreachable, msgspec.DecodeError) as error:
                self._complain(str(error))
            # Apart from one another, so that a host's return is no stampede.
            await asyncio.sleep(self._delay * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
            self._delay = min(self._delay * 2, _LAST_DELAY)

    def send(self, message: Message) -> None:
        """Send `message` if the link is up, with what else this turn of the loop sends."""
        if self._connection is not None:
            self._outbox.add(encode(message))

    async def fetch_launch(self, task_id: int) -> Launch:
        """Return a `Launch` too large for a frame; raise `HostUnreachable` if it cannot be had."""
        client = AsyncHTTPClient(force_instance=True, max_body_size=_MAX_LAUNCH)
        try:
            response = await client.fetch(
                f"{self._url}/api/runner/launch/{task_id}?{self._query}",
                headers=self._headers,
                ssl_options=self._trust,
                connect_timeout=_CONNECT,
                request_timeout=60.0,
            )
            message = decode_from_host(response.body)
        except (OSError, HTTPError, StreamClosedError, msgspec.DecodeError) as error:
            raise HostUnreachable(f"cannot fetch the launch of task {task_id}: {error}") from None
        finally:
            client.close()
        if not isinstance(message, Launch) or message.task_id != task_id:
            raise HostUnreachable(f"the host answered with no launch of task {task_id}")
        return message

    async def _session(self) -> None:
        connection = await self._connect()
        beating: asyncio.Task[None] | None = None
        messages = _messages(connection)
        try:
            welcome = await self._greet(connection, messages)
            await self._user.welcomed(welcome)
            _log.info("linked to the host at %s", self._url)
            self._delay, self._complaint = _FIRST_DELAY, ("", 0.0)
            self._exchange(connection)
            beating = asyncio.create_task(self._beat(welcome.heartbeat_interval), name="heartbeat")
            async for message in messages:
                self._user.received(message)
            _log.info("the link to the host at %s closed", self._url)
        finally:
            self._connection = None
            self._outbox.take()
            await messages.aclose()
            connection.close()
            if beating is not None:
                beating.cancel()
            await self._user.unlinked()

    async def _connect(self) -> WebSocketClientConnection:
        request = HTTPRequest(
            f"ws{self._url.removeprefix('http')}/api/runner?{self._query}",
            headers=self._headers,
            ssl_options=self._trust,
            connect_timeout=_CONNECT,
            request_timeout=_ANSWER,
        )
        future = cast(
            "asyncio.Future[WebSocketClientConnection]",
            websocket_connect(
                request,
                ping_interval=_PING,
                ping_timeout=_PING,
                max_message_size=_MAX_FRAME,
            ),
        )
        try:
            connection = await asyncio.shield(future)
        except asyncio.CancelledError:
            future.add_done_callback(_close_late)
            raise
        if connection.protocol is not None:
            connection.protocol.set_nodelay(True)
        return connection

    async def _greet(
        self, connection: WebSocketClientConnection, messages: AsyncGenerator[FromHost, None]
    ) -> Welcome:
        _write(connection, encode(self._user.hello()))
        try:
            async with asyncio.timeout(_ANSWER):
                answer = await anext(messages, None)
        except TimeoutError:
            raise HostUnreachable("the host does not answer the runner's hello") from None
        if isinstance(answer, Refuse):
            words = f"the host at {self._url} refuses this runner: {answer.reason}"
            raise StartError(words) if answer.final else HostUnreachable(words)
        if not isinstance(answer, Welcome):
            raise HostUnreachable("the host closed the link before it answered")
        return answer

    def _exchange(self, connection: WebSocketClientConnection) -> None:
        """Tell all that is known. Without a pause, so that no change falls between."""
        self._connection = connection
        before, after = self._user.known()
        for message in (*before, KnownEnd(), *after):
            self.send(message)

    async def _beat(self, interval: float) -> None:
        while True:
            self.send(Heartbeat(metrics=await self._measure()))
            await asyncio.sleep(interval)

    def _flush_soon(self) -> None:
        asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        for frame in self._outbox.take():
            if self._connection is not None:
                _write(self._connection, frame)

    def _complain(self, reason: str) -> None:
        """Log why there is no link: each new reason at once, the same one once a minute."""
        said, moment = self._complaint
        now = time.monotonic()
        if reason != said or now - moment >= _COMPLAIN:
            self._complaint = (reason, now)
            _log.warning("no link to the host at %s, trying on: %s", self._url, reason)


async def _messages(connection: WebSocketClientConnection) -> AsyncGenerator[FromHost, None]:
    """Give the host's messages until the connection closes."""
    while (frame := await connection.read_message()) is not None:
        for message in messages_from_host(frame.encode() if isinstance(frame, str) else frame):
            yield message


def _write(connection: WebSocketClientConnection, frame: bytes) -> None:
    with contextlib.suppress(WebSocketClosedError):
        connection.write_message(frame, binary=True).add_done_callback(_retrieve)


def _explain(error: HTTPError) -> str:
    if error.code == HTTPStatus.UNAUTHORIZED:
        return (
            "it does not accept this node's token (compare security.runner_secret or "
            "security.runner_token here with the host's)"
        )
    try:
        detail = msgspec.json.decode(error.response.body if error.response else b"", type=_Detail)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return str(error)
    return f"{error}: {detail.detail}"


def _retrieve(future: asyncio.Future[None]) -> None:
    """Take note that a write failed: the reader ends the session."""
    if not future.cancelled():
        future.exception()


def _close_late(future: asyncio.Future[WebSocketClientConnection]) -> None:
    """Close a connection that came about after nobody wanted it any more."""
    if not future.cancelled() and future.exception() is None:
        future.result().close()
