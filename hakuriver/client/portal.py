"""From synchronous code to an event loop that runs on one background thread, and back."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import weakref
from collections import deque
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import TYPE_CHECKING, Generic, Self, TypeVar

from hakuriver.errors import Conflict

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine

_T = TypeVar("_T")

#: Seconds between two looks at a pending interrupt, where a wait cannot be interrupted itself.
SLICE = 0.25
_JOIN_TIMEOUT = 5.0
_AHEAD = 256


class Portal:
    """A thread with an event loop on it, started with the first call.

    All methods may be called from every thread but the loop's own.
    """

    def __init__(self, name: str = "hakuriver-client") -> None:
        self._name = name
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._closed = False

    @property
    def inside(self) -> bool:
        """Whether the calling thread is the loop's own, which must not wait for itself."""
        return threading.current_thread() is self._thread

    def schedule(self, coroutine: Coroutine[object, object, _T]) -> Future[_T]:
        """Start `coroutine` on the loop and return at once."""
        try:
            loop = self._running()
        except BaseException:
            coroutine.close()
            raise
        return asyncio.run_coroutine_threadsafe(coroutine, loop)

    def call(self, coroutine: Coroutine[object, object, _T]) -> _T:
        """Run `coroutine` on the loop and return its result; an interrupt here cancels it there."""
        if self.inside:
            coroutine.close()
            raise Conflict(
                "this is the client's own thread (the callback of a task): it must not wait "
                "for the host, so hand the call to another thread"
            )
        future = self.schedule(coroutine)
        try:
            return wait_in_slices(future)
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """Cancel what still runs, end the loop and join the thread."""
        with self._lock:
            self._closed = True
            thread, loop, stop = self._thread, self._loop, self._stop
        if thread is None or loop is None or stop is None:
            return
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(stop.set)
        if not self.inside:
            thread.join(_JOIN_TIMEOUT)

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._closed:
                raise Conflict("this client is closed; make another")
            if self._loop is None:
                ready: Future[None] = Future()
                self._thread = threading.Thread(
                    target=lambda: asyncio.run(self._serve(ready)), name=self._name, daemon=True
                )
                self._thread.start()
                ready.result()
            if self._loop is None:
                raise AssertionError
            return self._loop

    async def _serve(self, ready: Future[None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        ready.set_result(None)
        await self._stop.wait()


def wait_in_slices(future: Future[_T]) -> _T:
    """Return the future's result; an interrupt takes effect within a slice on every platform."""
    while True:
        try:
            return future.result(SLICE)
        except FutureTimeout:
            # A coroutine may fail with a time-out of its own.
            if future.done():
                return future.result()


class Drain(Generic[_T]):
    """A synchronous iterator over an asynchronous one that runs ahead on the portal's loop.

    An interrupt leaves it usable: the next call goes on where it was, and no item is lost. It
    closes its source at the end, by `close`, or when nobody holds it any more.
    """

    def __init__(self, portal: Portal, source: Callable[[], AsyncGenerator[_T]]) -> None:
        self._items: deque[_T] = deque()
        self._pump = _Pump(source)
        self._portal = portal
        self._next: Future[list[_T]] | None = None
        self._finalizer = weakref.finalize(self, _abandon, portal, self._pump)
        self._finalizer.atexit = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> _T:
        while not self._items:
            if not self._finalizer.alive:
                raise StopIteration
            self._fetch()
        return self._items.popleft()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the source; items that are not taken yet are dropped."""
        self._items.clear()
        if self._finalizer.detach() is not None:
            with contextlib.suppress(Conflict, CancelledError):
                self._portal.call(self._pump.close())

    def _fetch(self) -> None:
        # Kept over an interrupt, since what it fetches has left the pump.
        if self._next is None:
            self._next = self._portal.schedule(self._pump.take())
        try:
            items = wait_in_slices(self._next)
        except KeyboardInterrupt:
            raise
        except BaseException:
            self.close()
            raise
        self._next = None
        if items:
            self._items.extend(items)
        else:
            self.close()


class _Pump(Generic[_T]):
    """Runs an asynchronous iterator ahead by a bounded number of items."""

    def __init__(self, source: Callable[[], AsyncGenerator[_T]]) -> None:
        self._source = source
        self._queue: asyncio.Queue[_T] = asyncio.Queue(_AHEAD)
        self._task: asyncio.Task[None] | None = None

    async def take(self) -> list[_T]:
        """Return all items there are, waiting for the first; none at the end."""
        if self._task is None:
            self._task = asyncio.create_task(self._run())
            self._task.add_done_callback(retrieve)
        items = self._ready()
        if not items and not self._task.done():
            getter = asyncio.create_task(self._queue.get())
            try:
                await asyncio.wait({getter, self._task}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                if not getter.done():
                    getter.cancel()
            items = [getter.result()] if getter.done() and not getter.cancelled() else []
            items += self._ready()
        if not items:
            self._task.result()
        return items

    async def close(self) -> None:
        """End the source."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    def _ready(self) -> list[_T]:
        return [self._queue.get_nowait() for _ in range(self._queue.qsize())]

    async def _run(self) -> None:
        async with contextlib.aclosing(self._source()) as items:
            async for item in items:
                await self._queue.put(item)


def retrieve(task: asyncio.Task[None]) -> None:
    """Take note of how `task` ended: where nobody asks any more, that is no fault to warn of."""
    if not task.cancelled():
        task.exception()


def _abandon(portal: Portal, pump: _Pump[_T]) -> None:
    with contextlib.suppress(Conflict):
        portal.schedule(pump.close())
