"""Many streams in one: the feed of changes and followed logs, line by line, for one connection."""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from typing import TYPE_CHECKING

import msgspec

from hakuriver.errors import HakuRiverError, HostFault
from hakuriver.host.follow import follow
from hakuriver.model.ids import parse_id
from hakuriver.model.messages import LogOpen
from hakuriver.model.views import LogNews, StreamLine

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from hakuriver.host.services import Services
    from hakuriver.model.submission import LogWish, StreamRequest

    _Pieces = asyncio.Queue[bytes | HakuRiverError]

logger = logging.getLogger(__name__)

# Pieces that wait to be sent: a client that does not read makes the sources wait.
_WAITING = 16


async def multiplex(services: Services, request: StreamRequest) -> AsyncGenerator[bytes, None]:
    """Yield lines of `StreamLine` for ever: first the rev it starts after.

    A log that cannot be followed ends with an `error` of its own; the others go on.
    """
    pieces: _Pieces = asyncio.Queue(_WAITING)
    feed = services.cluster.feed.follow(request.after)
    readers: list[asyncio.Task[None]] = []
    try:
        yield _wrap_events(await anext(feed))
        readers.append(asyncio.create_task(_read_events(feed, pieces)))
        readers += [asyncio.create_task(_read_log(services, one, pieces)) for one in request.logs]
        while True:
            piece = await pieces.get()
            if isinstance(piece, HakuRiverError):
                raise piece
            yield piece
    finally:
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
        await feed.aclose()


async def _read_events(feed: AsyncGenerator[bytes, None], pieces: _Pieces) -> None:
    try:
        async for lines in feed:
            await pieces.put(_wrap_events(lines))
    except HakuRiverError as error:
        # Without events the whole stream is worth nothing.
        await pieces.put(error)
    except Exception:
        logger.exception("The feed of changes broke")
        await pieces.put(HostFault("the feed of changes broke; the host's log has the details"))


async def _read_log(services: Services, wish: LogWish, pieces: _Pieces) -> None:
    try:
        request = LogOpen(
            subscription=0,
            task_id=parse_id(wish.id),
            stream=wish.stream,
            offset=wish.offset,
            follow=True,
        )
        async with aclosing(follow(services, request)) as source:
            async for lines in source:
                await pieces.put(_wrap_log(lines, wish))
    except HakuRiverError as error:
        await pieces.put(_broken(wish, str(error)))
    except Exception:
        logger.exception("Following a log broke")
        await pieces.put(_broken(wish, "following it broke; the host's log has the details"))


def _wrap_events(lines: bytes) -> bytes:
    """Return lines of `Event` as lines of `StreamLine`; they are encoded once for all readers."""
    return b"".join(b'{"event":' + line + b"}\n" for line in lines.splitlines())


def _wrap_log(lines: bytes, wish: LogWish) -> bytes:
    head = msgspec.json.encode({"id": wish.id, "stream": wish.stream})[:-1]
    wrapped: list[bytes] = []
    for line in lines.splitlines():
        comma = b"" if line == b"{}" else b","
        wrapped += (b'{"log":', head, comma, line[1:], b"}\n")
    return b"".join(wrapped)


def _broken(wish: LogWish, error: str) -> bytes:
    news = LogNews(id=wish.id, stream=wish.stream, error=error)
    return msgspec.json.encode(StreamLine(log=news)) + b"\n"
