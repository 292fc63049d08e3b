"""Reading and following logs for the host: chunks on credit, pushed as the file grows.

Nothing is read unless somebody asked. Of each log at most the granted window is on its way, so
that neither runner nor host holds more of it in memory, however fast it grows.
"""

from __future__ import annotations

import asyncio
import logging
import os
from functools import partial
from typing import TYPE_CHECKING

from hakuriver.logfiles import TaskFiles, open_log, tail_offset
from hakuriver.model.messages import (
    LOG_WINDOW,
    MAX_CHUNK,
    LogChunk,
    LogClose,
    LogCredit,
    LogEnd,
    LogOpen,
    LogOpened,
    LogReset,
    Message,
)
from hakuriver.runner.watches import Watches

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_log = logging.getLogger(__name__)

# The net below inotify, and what replaces it where the kernel refuses a watch.
_NET = 2.0
_UNWATCHED = 0.2


class _Subscription:
    """One log on its way to the host."""

    def __init__(self, owner: Tail, request: LogOpen) -> None:
        self._owner = owner
        self._request = request
        self._path = owner.files.log(request.task_id, request.stream)
        self._descriptor: int | None = None
        self._offset = request.offset
        self._left = request.limit
        self._watched = False
        self.task_id = request.task_id
        self.credit = LOG_WINDOW
        #: Set when something happened: the file grew, credit came, the task ended.
        self.wake = asyncio.Event()

    async def run(self) -> None:
        """Answer the request, send what is wanted, say that this was all."""
        try:
            if not await self._begin():
                return
            await self._pump()
            self._send(LogEnd(subscription=self._request.subscription, size=self._offset))
        finally:
            self._owner.watches.remove(self.wake)
            if self._descriptor is not None:
                os.close(self._descriptor)

    async def _begin(self) -> bool:
        number = self._request.subscription
        try:
            size = await self._open()
        except OSError as error:
            reason = f"cannot read {self._path}: {error.strerror}"
            self._send(LogOpened(subscription=number, size=0, offset=0, error=reason))
            return False
        if not self._request.follow:
            self._offset = min(self._offset, size)
        self._send(LogOpened(subscription=number, size=size, offset=self._offset))
        return True

    async def _open(self) -> int:
        """Open the log if it exists, find the first offset, return the size."""
        self._descriptor = await _open_in_thread(self._path, self._owner.files.owner)
        lines = self._request.tail
        if self._descriptor is None:
            if lines is not None:
                self._offset = 0
            return 0
        size, start = await asyncio.to_thread(_measure, self._descriptor, lines)
        if lines is not None:
            self._offset = start
        return size

    async def _pump(self) -> None:
        while self._left is None or self._left > 0:
            # Asked before reading: what a task wrote before its end is read after it.
            live = self._request.follow and self._owner.is_live(self.task_id)
            self.wake.clear()
            if live:
                self._watch()
            if self.credit <= 0:
                await self.wake.wait()
            elif not await self._send_chunk():
                if not live:
                    return
                await self._wait()

    async def _send_chunk(self) -> bool:
        """Send the next bytes, or that the file shrank; False when there is nothing to say."""
        if self._descriptor is None:
            self._descriptor = await _open_in_thread(self._path, self._owner.files.owner)
            if self._descriptor is None:
                return False
            self._watched = False
        number = self._request.subscription
        want = min(MAX_CHUNK, self.credit, MAX_CHUNK if self._left is None else self._left)
        data, size = await asyncio.to_thread(_read, self._descriptor, want, self._offset)
        if data:
            self._send(LogChunk(subscription=number, offset=self._offset, data=data))
            self._offset += len(data)
            self.credit -= len(data)
            self._left = None if self._left is None else self._left - len(data)
        elif self._request.follow and size < self._offset:
            self._send(LogReset(subscription=number))
            self._offset = 0
        else:
            return False
        return True

    def _watch(self) -> None:
        """Watch the file, or the folder until the file exists."""
        if self._watched:
            return
        watches = self._owner.watches
        watches.remove(self.wake)
        if self._descriptor is not None:
            self._watched = watches.add(self._path, self.wake)
        else:
            self._watched = watches.add(self._path.parent, self.wake, folder=True)

    async def _wait(self) -> None:
        # A file that has just appeared is watched before anything is waited for.
        if not self._watched:
            self._watch()
            if self._watched:
                return
        try:
            async with asyncio.timeout(_NET if self._watched else _UNWATCHED):
                await self.wake.wait()
        except TimeoutError:
            return

    def _send(self, message: Message) -> None:
        self._owner.send(message)


class Tail:
    """All logs that the host reads at the moment.

    Args:
        files: where the logs lie.
        is_live: whether a task may still write (also when it has not started yet).
        send: takes messages for the host; must not block.
    """

    def __init__(
        self,
        files: TaskFiles,
        *,
        is_live: Callable[[int], bool],
        send: Callable[[Message], None],
    ) -> None:
        self.files = files
        self.is_live = is_live
        self.send = send
        self.watches = Watches()
        self._subscriptions: dict[int, _Subscription] = {}
        self._running: dict[int, asyncio.Task[None]] = {}

    def open(self, request: LogOpen) -> None:
        """Begin to send a log; what is being sent already goes on as it does."""
        number = request.subscription
        if number in self._running:
            return
        subscription = _Subscription(self, request)
        task = asyncio.create_task(subscription.run(), name=f"log {request.task_id}")
        self._subscriptions[number] = subscription
        self._running[number] = task
        task.add_done_callback(lambda done: self._done(number, done))

    def credit(self, grant: LogCredit) -> None:
        """Let more of a log be sent."""
        subscription = self._subscriptions.get(grant.subscription)
        if subscription is not None:
            subscription.credit += grant.size
            subscription.wake.set()

    def close(self, request: LogClose) -> None:
        """Send no more of a log."""
        task = self._running.get(request.subscription)
        if task is not None:
            task.cancel()

    def ended(self, task_id: int) -> None:
        """A task is over: its followers read to the end and stop."""
        for subscription in self._subscriptions.values():
            if subscription.task_id == task_id:
                subscription.wake.set()

    async def close_all(self) -> None:
        """Stop all; the link they belong to is gone."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _done(self, number: int, task: asyncio.Task[None]) -> None:
        if self._running.get(number) is task:
            del self._running[number], self._subscriptions[number]
        if not task.cancelled() and task.exception() is not None:
            _log.error("reading a log failed", exc_info=task.exception())
            self.send(LogEnd(subscription=number, size=0))


def _read(descriptor: int, size: int, offset: int) -> tuple[bytes, int]:
    """Return the bytes at `offset`; if there are none, also how long the file is."""
    data = os.pread(descriptor, size, offset)
    return data, 0 if data else os.fstat(descriptor).st_size


def _measure(descriptor: int, lines: int | None) -> tuple[int, int]:
    """Return the file's size and where its last `lines` lines begin."""
    size = os.fstat(descriptor).st_size
    return size, 0 if lines is None else tail_offset(descriptor, lines, size)


async def _open_in_thread(path: Path, owner: int | None) -> int | None:
    future = asyncio.get_running_loop().run_in_executor(None, partial(open_log, path, owner=owner))
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        future.add_done_callback(_close_late)
        raise


def _close_late(future: asyncio.Future[int | None]) -> None:
    """Close a log that was opened when nobody wanted it any more."""
    if not future.cancelled() and future.exception() is None:
        descriptor = future.result()
        if descriptor is not None:
            os.close(descriptor)
