"""Logs: raw bytes with ranges and tails, or followed as NDJSON until the task has ended."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta
from tornado.iostream import StreamClosedError

from hakuriver.errors import NodeOffline
from hakuriver.host.api.base import ApiHandler
from hakuriver.host.api.operations import NDJSON, TEXT, Operation
from hakuriver.host.api.queries import HIGHEST
from hakuriver.host.follow import follow, with_logs
from hakuriver.host.local import LocalLog, shared_log
from hakuriver.host.logs import LinkBroken, Subscription
from hakuriver.model.ids import parse_id
from hakuriver.model.messages import LogChunk, LogOpen, LogOpened, Stream
from hakuriver.model.views import LogLine

if TYPE_CHECKING:
    from hakuriver.host.records import TaskRecord

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})\Z", re.ASCII)
_MAX_TAIL = 1_000_000_000
Source = Subscription | LocalLog
_EMPTY_LINE = msgspec.json.encode(LogLine()) + b"\n"


class LogQuery(msgspec.Struct, frozen=True, kw_only=True):
    """What of a log is asked for."""

    offset: Annotated[int, Meta(ge=0, le=HIGHEST, description="The byte to begin at.")] = 0
    tail: Annotated[
        Annotated[int, Meta(ge=0, le=_MAX_TAIL)] | None,
        Meta(description=f"Only so many of its last lines, 0 to {_MAX_TAIL}."),
    ] = None
    follow: Annotated[
        bool, Meta(description="1: as lines of JSON, until the task has ended. Else 0.")
    ] = False


class Log(ApiHandler):
    """``GET /task/{id}/stdout`` and ``/stderr``."""

    async def get(self, task_id: str, stream: Stream) -> None:
        """Answer the log, empty for a task that has not started."""
        number = parse_id(task_id)
        query = self.query(LogQuery)
        request = LogOpen(
            subscription=0,
            task_id=number,
            stream=stream,
            offset=query.offset,
            tail=query.tail,
        )
        self.set_header("X-Content-Type-Options", "nosniff")
        if query.follow:
            self.set_header("Content-Type", NDJSON)
            source = follow(self.services, msgspec.structs.replace(request, follow=True))
            await self.stream(source, keep_alive=_EMPTY_LINE)
        else:
            await self._raw(await with_logs(self.services, number), request)

    async def _raw(self, record: TaskRecord, request: LogOpen) -> None:
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.set_header("Accept-Ranges", "bytes")
        if record.started_at is None:
            await self.finish()
            return
        wanted = _range(self.request.headers.get("Range", ""))
        if wanted is not None and request.tail is None:
            ranged = await self._ranged(record, request, *wanted)
            if ranged is None:
                return
            request = ranged
        with self._open(record, request) as source:
            opened = await self._opened(record, source)
            # What the log grows by from now on is not part of the answer.
            rest = opened.size - opened.offset
            size = rest if request.limit is None else min(rest, request.limit)
            self.set_header("Content-Length", str(size))
            await self._send(source, size)

    async def _send(self, source: Source, size: int) -> None:
        """Send `size` bytes; cut the connection if there are fewer, so that the client sees it."""
        while size > 0 and not self.gone:
            try:
                message = await source.next()
            except LinkBroken:
                message = None
            if not isinstance(message, LogChunk):
                self.cut()
                return
            data = message.data[:size]
            size -= len(data)
            self.write(data)
            try:
                await self.push()
            except StreamClosedError:
                return
            source.consumed(len(message.data))

    async def _ranged(
        self, record: TaskRecord, request: LogOpen, first: str, last: str
    ) -> LogOpen | None:
        """Return the request for a range of bytes; None once 416 has been answered."""
        with self._open(record, msgspec.structs.replace(request, limit=0)) as source:
            size = (await self._opened(record, source)).size
        # "-5" is the last five bytes, "5-" all from the sixth.
        start = int(first) if first else max(0, size - int(last))
        end = min(int(last), size - 1) if first and last else size - 1
        if start > end:
            self.set_status(416)
            self.set_header("Content-Range", f"bytes */{size}")
            await self.finish()
            return None
        self.set_status(206)
        self.set_header("Content-Range", f"bytes {start}-{end}/{size}")
        return msgspec.structs.replace(request, offset=start, limit=end - start + 1)

    def _open(self, record: TaskRecord, request: LogOpen) -> Source:
        link = self.services.cluster.nodes.online_link(record.node)
        if link is not None:
            return self.services.subscriptions.subscribe(link, request)
        local = shared_log(self.services.config, request)
        if local is None:
            raise NodeOffline(f"{record.node} is offline; its logs can be read when it is back")
        return local

    async def _opened(self, record: TaskRecord, source: Source) -> LogOpened:
        try:
            return await source.opened()
        except LinkBroken:
            raise NodeOffline(f"{record.node} went offline while its log was read") from None


def _range(header: str) -> tuple[str, str] | None:
    """Return first and last byte, one of which may be empty; None for what RFC 9110 ignores."""
    match = _RANGE.match(header)
    if not match or match[0] == "bytes=-":
        return None
    if match[1] and match[2] and int(match[2]) < int(match[1]):
        return None
    return match[1], match[2]


OPERATIONS = [
    Operation(
        method="GET",
        path=f"/task/{{task_id}}/{name}",
        summary=f"What a task wrote to {name}, as written, or followed; takes a Range of bytes",
        query=LogQuery,
        replies={TEXT: None, NDJSON: LogLine},
        also={206: "The bytes of the range."},
        errors=(404, 409, 416),
    )
    for name in ("stdout", "stderr")
]
ROUTES = [(r"(?:/api)?/task/([^/]+)/(stdout|stderr)", Log)]
