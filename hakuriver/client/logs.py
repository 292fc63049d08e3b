"""Logs of tasks: bytes without loss or doubling over broken streams, and text from them."""

from __future__ import annotations

import codecs
from base64 import b64decode
from contextlib import aclosing
from typing import TYPE_CHECKING, Literal

from hakuriver.client.backoff import ADOPTION, PASSING, PATIENCE, Backoff
from hakuriver.client.outcome import is_final
from hakuriver.errors import HostUnreachable, NodeOffline, NotFound

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator

    from hakuriver.client.cluster import Cluster
    from hakuriver.model.messages import Stream
    from hakuriver.model.views import LogEndView, LogLine

#: What becomes of bytes that are no UTF-8: a mark each, or surrogates that give the bytes back.
Errors = Literal["replace", "surrogateescape"]


class LogCursor:
    """The place reached in a followed log; gives each byte once, whatever was sent twice.

    `offset` is the next byte to ask for, None before the first of a tail; `end` is set when the
    log is whole.
    """

    def __init__(self, offset: int | None = 0) -> None:
        self.offset = offset
        self.end: LogEndView | None = None

    def take(self, line: LogLine) -> bytes:
        """Return the bytes in `line` that are new."""
        if line.end is not None:
            self.end = line.end
        if line.reset:
            self.offset = 0
        data = _content(line)
        if not data:
            return b""
        start = self.offset or 0 if line.offset is None else line.offset
        known = 0 if self.offset is None else max(0, self.offset - start)
        if known >= len(data):
            return b""
        self.offset = start + len(data)
        return data[known:]


class LineSplitter:
    """Cuts chunks of text into lines without their newline."""

    def __init__(self) -> None:
        self._rest: list[str] = []

    def feed(self, text: str) -> Iterator[str]:
        """Give the lines that `text` completes."""
        first, *others = text.split("\n")
        self._rest.append(first)
        for piece in others:
            yield "".join(self._rest)
            self._rest = [piece]

    def flush(self) -> Iterator[str]:
        """Give a last line that no newline ended."""
        rest = "".join(self._rest)
        self._rest = []
        if rest:
            yield rest


async def follow_bytes(
    cluster: Cluster,
    task_id: str,
    stream: Stream,
    *,
    tail: int | None = None,
    patience: float = PATIENCE,
) -> AsyncGenerator[bytes]:
    """Give a log's bytes as they come, from its start or its last `tail` lines, to its end.

    A broken stream is opened again where it broke; after `patience` seconds of failures the
    last one is raised.
    """
    cursor = LogCursor(0 if tail is None else None)
    backoff, adoption = Backoff(patience), Backoff(ADOPTION)
    opened = False
    while cursor.end is None:
        try:
            again = cursor.offset is not None
            async with cluster.follow_log(
                task_id, stream, offset=cursor.offset or 0, tail=None if again else tail
            ) as lines:
                opened = True
                async for line in lines:
                    backoff.succeeded()
                    adoption.succeeded()
                    if data := cursor.take(line):
                        yield data
                    if cursor.end is not None:
                        return
            raise HostUnreachable(f"the log of task {task_id} broke off")
        except NodeOffline as error:
            # The log of a task that has ended grows no more, so there is nothing to wait for.
            if is_final(await cluster.status(task_id)):
                raise
            await backoff.wait(error)
        except PASSING as error:
            await backoff.wait(error)
        except NotFound as error:
            # It was there: a host whose database was lost hears of it again from its node.
            if not opened:
                raise
            await adoption.wait(error)


async def read_bytes(
    cluster: Cluster, task_id: str, stream: Stream, *, tail: int | None = None
) -> AsyncGenerator[bytes]:
    """Give what a log holds now, or its last `tail` lines."""
    async with cluster.read_log(task_id, stream, tail=tail) as chunks:
        async for chunk in chunks:
            yield chunk


async def read_text(
    cluster: Cluster,
    task_id: str,
    stream: Stream,
    *,
    follow: bool = False,
    tail: int | None = None,
    errors: Errors = "replace",
    patience: float = PATIENCE,
) -> AsyncGenerator[str]:
    """Give a log as text, in chunks that never cut a character; see `follow_bytes`."""
    source = (
        follow_bytes(cluster, task_id, stream, tail=tail, patience=patience)
        if follow
        else read_bytes(cluster, task_id, stream, tail=tail)
    )
    decoder = codecs.getincrementaldecoder("utf-8")(errors)
    async with aclosing(source):
        async for data in source:
            if text := decoder.decode(data):
                yield text
    if rest := decoder.decode(b"", final=True):
        yield rest


async def split_lines(chunks: AsyncGenerator[str]) -> AsyncIterator[str]:
    """Give the lines in `chunks`, without their newline; close `chunks` at the end."""
    splitter = LineSplitter()
    async with aclosing(chunks):
        async for chunk in chunks:
            for line in splitter.feed(chunk):
                yield line
    for line in splitter.flush():
        yield line


def _content(line: LogLine) -> bytes:
    if line.data is not None:
        return line.data.encode()
    return b"" if line.b64 is None else b64decode(line.b64)
