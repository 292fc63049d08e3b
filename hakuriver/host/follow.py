"""Following a log from any moment of a task's life, across broken links, to its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from hakuriver.errors import NotFound
from hakuriver.host.logs import LinkBroken, Subscription
from hakuriver.host.pulse import either
from hakuriver.host.text import Cutter
from hakuriver.model.messages import LogChunk, LogOpen, LogReset
from hakuriver.model.quantities import format_duration
from hakuriver.model.views import LogEndView, LogLine

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from hakuriver.host.nodes import Link
    from hakuriver.host.records import TaskRecord
    from hakuriver.host.services import Services

# How long a log of an ended task waits for its node before the follow ends without it.
_NODE_SECONDS = 60.0


async def follow(services: Services, request: LogOpen) -> AsyncGenerator[bytes, None]:
    """Yield NDJSON lines of a task's log until the task has ended and its log is whole.

    A task that has not started is waited for. When the node's link breaks, the log goes on where
    it was once the node is back.
    """
    await with_logs(services, request.task_id)
    cutter = Cutter(request.offset)
    while True:
        link = await _link_to(services, request.task_id)
        if link is None:
            break
        with services.subscriptions.subscribe(link, request) as subscription:
            try:
                opened = await subscription.opened()
                request = msgspec.structs.replace(request, tail=None)
                cutter = Cutter(opened.offset)
                async for lines in _relay(subscription, cutter):
                    yield lines
            except LinkBroken:
                # A character that was cut off comes again whole.
                request = msgspec.structs.replace(request, offset=cutter.offset)
                continue
        break
    record = await _final(services, request.task_id)
    end = LogLine(end=LogEndView(status=record.status, size=cutter.offset))
    yield _encode([*cutter.flush(), end])


async def with_logs(services: Services, task_id: int) -> TaskRecord:
    """Return a task whose logs have not been removed; raise `NotFound`."""
    record = await services.cluster.get(task_id)
    if record.logs_removed:
        raise NotFound(
            f"the logs of task {task_id} are gone; they are kept for "
            f"{format_duration(services.config.retention.log_days * 86400)} "
            "(retention.keep_logs_days, keep_tasks_days)"
        )
    return record


async def _relay(subscription: Subscription, cutter: Cutter) -> AsyncGenerator[bytes, None]:
    """Yield what comes over the link until the runner says that it is all."""
    while True:
        message = await subscription.next()
        if isinstance(message, LogChunk):
            lines = cutter.feed(message.data)
            if lines:
                yield _encode(lines)
            subscription.consumed(len(message.data))
        elif isinstance(message, LogReset):
            cutter.reset()
            yield _encode([LogLine(reset=True)])
        else:
            return


async def _link_to(services: Services, task_id: int) -> Link | None:
    """Wait until a task runs or ran on an online node; None if it never did, or that is away."""
    cluster = services.cluster
    while True:
        task_moved = cluster.moved.next(task_id)
        record = await cluster.get(task_id)
        if record.started_at is None:
            if record.is_final:
                return None
            # Before the launch has arrived, its node would know of no such log.
            await task_moved.wait()
            continue
        node_moved = cluster.nodes.moved.next(record.node or "")
        link = cluster.nodes.online_link(record.node)
        if link is not None:
            return link
        limit = _NODE_SECONDS if record.is_final else None
        if not await either(task_moved, node_moved, seconds=limit):
            return None


async def _final(services: Services, task_id: int) -> TaskRecord:
    """Wait until a task has ended; its log's end may come before the word of it is on disk."""
    cluster = services.cluster
    while True:
        moved = cluster.moved.next(task_id)
        record = await cluster.get(task_id)
        if record.is_final:
            return record
        await moved.wait()


def _encode(lines: list[LogLine]) -> bytes:
    return b"".join(msgspec.json.encode(line) + b"\n" for line in lines)
