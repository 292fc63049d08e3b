"""A way between a runner and the host that can be broken in every way a network breaks.

It knows the frames of WebSockets, so that it can repeat a message as a whole; what it repeats are
frames with messages, at once and in their order: more than TCP would ever do, and all that the
protocol promises to bear.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    _Link = tuple[asyncio.StreamWriter, asyncio.StreamWriter]

_HEAD_END = b"\r\n\r\n"
_BINARY = 0x82
_CHUNK = 64 << 10


class Proxy:
    """Listens on a port of its own, and hands on to the host's; faults are set from any thread.

    Args:
        seconds: how long a message is held while `delaying`.
    """

    def __init__(self, *, seconds: float = 0.15) -> None:
        self.port = 0
        #: The host's port, known only later.
        self.target = 0
        self.delaying = False
        self.repeating = False
        self._seconds = seconds
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._server: asyncio.Server | None = None
        self._links: set[_Link] = set()
        self._pumps: set[asyncio.Task[Any]] = set()
        self._open = asyncio.Event()
        self._open.set()

    def start(self) -> None:
        """Listen."""
        self._thread.start()
        self._run(self._listen())

    def stop(self) -> None:
        """Break all connections and end."""
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()

    def cut(self) -> None:
        """Reset every connection."""
        self._each(lambda _, up: up.transport.abort())

    def half_close(self) -> None:
        """End one direction of every connection, and leave the other as it is."""

        def end(_: asyncio.StreamWriter, up: asyncio.StreamWriter) -> None:
            with suppress(OSError):
                up.write_eof()

        self._each(end)

    def part(self) -> None:
        """Let nothing through, and tell nobody: connections stay, and new ones are taken."""
        self._loop.call_soon_threadsafe(self._open.clear)

    def join(self) -> None:
        """Let everything through again, what was held first."""
        self._loop.call_soon_threadsafe(self._open.set)

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def _each(self, do: Callable[[asyncio.StreamWriter, asyncio.StreamWriter], None]) -> None:
        """Do something to every connection: its end at the runner, and that at the host."""

        def all_of_them() -> None:
            for down, up in list(self._links):
                do(down, up)

        self._loop.call_soon_threadsafe(all_of_them)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        me = asyncio.current_task()
        assert me is not None
        self._pumps.add(me)
        try:
            await self._open.wait()
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        except asyncio.CancelledError:
            writer.transport.abort()
            return
        finally:
            self._pumps.discard(me)
        link = (writer, up_writer)
        self._links.add(link)
        ways = [
            asyncio.create_task(self._pump(reader, up_writer)),
            asyncio.create_task(self._pump(up_reader, writer)),
        ]
        self._pumps.update(ways)
        try:
            await asyncio.wait(ways)
        finally:
            self._pumps.difference_update(ways)
            self._links.discard(link)
            for each in link:
                each.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Hand on one direction until it ends."""
        with suppress(asyncio.IncompleteReadError, ConnectionError, OSError):
            head = await reader.readuntil(_HEAD_END)
            await self._pass(writer, head)
            frames = b"upgrade: websocket" in head.lower()
            while data := await (_frame(reader) if frames else reader.read(_CHUNK)):
                await self._pass(writer, data)
                if self.repeating and frames and data[0] == _BINARY:
                    await self._pass(writer, data)
            if writer.can_write_eof() and not writer.is_closing():
                writer.write_eof()
                return
        writer.transport.abort()

    async def _pass(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        if self.delaying:
            await asyncio.sleep(self._seconds)
        await self._open.wait()
        writer.write(data)
        await writer.drain()


async def _frame(reader: asyncio.StreamReader) -> bytes:
    """Return one whole frame (RFC 6455, section 5.2)."""
    head = await reader.readexactly(2)
    size = head[1] & 0x7F
    wide = {126: 2, 127: 8}.get(size, 0)
    more = await reader.readexactly(wide + (4 if head[1] & 0x80 else 0))
    if wide:
        size = int.from_bytes(more[:wide], "big")
    return head + more + await reader.readexactly(size)
