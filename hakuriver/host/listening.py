"""The host's server: HTTP with or without TLS on one port, and a clear word to who has it wrong.

The first byte of a connection tells which of the two the peer speaks. Without that look a TLS
client of a plain host would wait for its time-out, and a plain client of a TLS host would see
nothing but an end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from typing import TYPE_CHECKING, Any

import msgspec
from tornado.http1connection import HTTP1Connection, HTTP1ServerConnection
from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream, StreamClosedError

from hakuriver import tls
from hakuriver.host.bodies import BoundedBody

if TYPE_CHECKING:
    import ssl

    from tornado.httputil import HTTPConnection, HTTPMessageDelegate
    from tornado.web import Application

    from hakuriver.host.strangers import Strangers
    from hakuriver.host.tally import Tally

logger = logging.getLogger(__name__)

# The first byte of a TLS record that begins a handshake (RFC 8446, section 5.1).
_HANDSHAKE = b"\x16"
#: See `Server`.
PATIENCE = 60.0
# So long an answer to the wrong protocol is kept open, so that it arrives.
_LINGER_SECONDS = 1.0
_MAX_HEADER = 64 << 10

SPEAK_TLS = (
    "this host speaks TLS: write https:// in its address, and give the certificate of its "
    "authority as network.tls_ca"
)
_SPEAK_PLAIN = "this host speaks plain HTTP: write http:// in its address"


class Server(HTTPServer):
    """Tornado's server, which looks at what a connection begins with.

    Args:
        application: what answers.
        context: for TLS, None for plain HTTP.
        strangers: keeps count of the connections that have shown no token.
        tally: counts what is refused before the application hears of it.
        patience: seconds that a connection may take for its first byte, its handshake or the
            headers of a request, and be idle; twice as many for a request's body.
    """

    # Tornado makes its servers by `initialize`, which takes what the class is called with.
    def initialize(  # type: ignore[override]
        self,
        application: Application,
        *,
        context: ssl.SSLContext | None,
        strangers: Strangers,
        tally: Tally,
        patience: float = PATIENCE,
    ) -> None:
        """Take over what the class was called with."""
        super().initialize(
            application,
            max_header_size=_MAX_HEADER,
            # It holds for the headers of a request as well as for the time between two.
            idle_connection_timeout=patience,
            body_timeout=2 * patience,
        )
        tls.leave_to_callers()
        logging.getLogger("tornado.general").addFilter(_quotes_nothing)
        self._context = context
        self._strangers = strangers
        self._tally = tally
        self._patience = patience
        self._starting: set[asyncio.Task[None]] = set()

    def handle_stream(self, stream: IOStream, address: tuple[Any, ...]) -> None:
        """Look at a new connection, without holding up the others."""
        task = asyncio.create_task(self._start(stream, address), name="a new connection")
        self._strangers.add(stream, task.cancel)
        self._starting.add(task)
        task.add_done_callback(lambda done: self._over(done, stream))

    def _over(self, task: asyncio.Task[None], stream: IOStream) -> None:
        self._starting.discard(task)
        if task.cancelled():
            # One that was cancelled before its first step has not closed anything itself.
            self._strangers.forget(stream)
            _drop(stream)

    def start_request(
        self, server_conn: object, request_conn: HTTPConnection
    ) -> HTTPMessageDelegate:
        """Return what takes a request, up to the largest body that there may be."""
        taker = super().start_request(server_conn, request_conn)
        assert isinstance(request_conn, HTTP1Connection)  # noqa: S101 - told to the type checker
        return BoundedBody(taker, request_conn, self._tally)

    async def close_all_connections(self) -> None:
        """Close those that have begun, and those that were about to."""
        starting = set(self._starting)
        for task in starting:
            task.cancel()
        if starting:
            await asyncio.wait(starting)
        await super().close_all_connections()

    def on_close(self, server_conn: object) -> None:
        """Take a connection off that has ended."""
        super().on_close(server_conn)
        if isinstance(server_conn, HTTP1ServerConnection):
            self._strangers.forget(server_conn.stream)

    async def _start(self, stream: IOStream, address: tuple[Any, ...]) -> None:
        begun: IOStream | None = None
        try:
            async with asyncio.timeout(self._patience):
                begun = await self._begin(stream)
        except (TimeoutError, OSError, StreamClosedError) as error:
            # The client tells its user why, and tries again: here it would fill the log.
            logger.debug("A connection from %s came to nothing: %s", address[:1], error)
            _drop(stream)
            return
        finally:
            self._strangers.forget(stream)
        if begun is not None:
            self._strangers.add(begun, begun.close)
            super().handle_stream(begun, address)

    async def _begin(self, stream: IOStream) -> IOStream | None:
        """Return what is to be served, None if the peer was told off or has gone."""
        first = b"" if stream.socket is None else await _first_byte(stream.socket)
        if not first:
            stream.close()
            return None
        if (first == _HANDSHAKE) != (self._context is not None):
            await _tell_off(stream, SPEAK_TLS if self._context is not None else _SPEAK_PLAIN)
            return None
        if self._context is None:
            return stream
        # Else the answers of a handshake would wait for one another's acknowledgement.
        stream.set_nodelay(True)
        return await stream.start_tls(server_side=True, ssl_options=self._context)


def _quotes_nothing(record: logging.LogRecord) -> bool:
    """Strip what Tornado quotes of a request that it cannot read: a token may stand in it."""
    quotes = str(record.msg).startswith("Malformed HTTP message from")
    if quotes and isinstance(record.args, tuple) and record.args:
        record.msg, record.args = "Malformed HTTP message from %s", (record.args[0],)
    return True


def _drop(stream: IOStream) -> None:
    # One that was made to speak TLS has handed its socket on, and is closed by its heir.
    if stream.socket is not None:
        stream.close()


async def _first_byte(connection: socket.socket) -> bytes:
    """Return the first byte that a peer sends, without taking it; empty if it ends before."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            return connection.recv(1, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            pass
        readable = asyncio.Event()
        loop.add_reader(connection, readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(connection)


async def _tell_off(stream: IOStream, detail: str) -> None:
    """Answer in plain HTTP; a TLS client understands at least that it is no TLS."""
    body = msgspec.json.encode({"detail": detail})
    head = (
        "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    with contextlib.suppress(TimeoutError, OSError, StreamClosedError):
        async with asyncio.timeout(_LINGER_SECONDS):
            await stream.write(head.encode() + body)
            if stream.socket is not None:
                stream.socket.shutdown(socket.SHUT_WR)
            # A close with unread bytes would reset the connection, and the answer be lost.
            while True:
                await stream.read_bytes(_MAX_HEADER, partial=True)
    stream.close()
