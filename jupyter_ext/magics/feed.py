"""A future and what its tasks bring, for one other thread to take, by a thread of its own.

The main thread of a kernel is where an interrupt arrives. It only ever waits here for the next
event, so that an interrupt takes effect at once and never between a request and its answer.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from queue import Empty, Full, Queue
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from hakuriver.client.futures import Task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from hakuriver.client.follow import Change, Output
    from hakuriver.client.watch import Watcher

    Event = Output | Change

#: What is followed together: a task, a batch, or other tasks.
F = TypeVar("F", bound="Task | Sequence[Task]")

# Events that wait to be taken: enough to keep both sides busy, too few to fill the memory.
_QUEUED = 64
_SLICE = 0.5


class Source(Protocol):
    """What tasks bring: an iterable that another thread can close."""

    def __iter__(self) -> Iterator[Event]: ...

    def close(self) -> None:
        """End the iteration; the tasks go on."""
        ...


def tasks_of(future: Task | Sequence[Task]) -> list[Task]:
    """Return the tasks behind a future."""
    return [future] if isinstance(future, Task) else list(future)


class Feed(Generic[F]):
    """Gets a future by `ask`, then gives what `source` makes of its tasks; None: nothing.

    As soon as `answered` is set, there is a `future`, or an `error` says why not. Later an
    `error` tells what ended the feed early.
    """

    def __init__(
        self,
        ask: Callable[[], F],
        source: Callable[[Sequence[Task]], Source] | None,
    ) -> None:
        self.answered = threading.Event()
        self.future: F | None = None
        self.error: BaseException | None = None
        self._ask = ask
        self._make_source = source
        self._source: Source | None = None
        self._watcher: Watcher | None = None
        self._events: Queue[Event | None] = Queue(_QUEUED)
        self._ended = threading.Event()
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hakuriver-feed", daemon=True)

    @property
    def over(self) -> bool:
        """Whether no more events will come."""
        return self._ended.is_set() and self._events.empty()

    @property
    def left(self) -> bool:
        """Whether it was ended by `leave`."""
        return self._left.is_set()

    @property
    def silent_host(self) -> str | None:
        """Where the host is that answers no more and is waited for; None while all is well."""
        watcher = self._watcher
        return None if watcher is None or watcher.trouble is None else watcher.cluster.address

    def start(self) -> None:
        """Ask now; returns at once."""
        self._thread.start()

    def take(self, timeout: float | None) -> Event | None:
        """Return the next event; None if there is none yet, or no more."""
        with suppress(Empty):
            return self._events.get(timeout=timeout)
        return None

    def leave(self) -> None:
        """Follow no longer and end the thread; the tasks go on."""
        self._left.set()
        if self._source is not None:
            self._source.close()

    def _run(self) -> None:
        try:
            self.future = self._ask()
            self.answered.set()
            if self._make_source is not None:
                tasks = tasks_of(self.future)
                self._watcher = tasks[0].handle.watcher
                self._source = self._make_source(tasks)
                self._pass_on(self._source, self._watcher)
        except BaseException as error:  # noqa: BLE001 - whoever takes the events raises it
            self.error = error
        finally:
            self._ended.set()
            self.answered.set()
            self._nudge()

    def _pass_on(self, source: Source, watcher: Watcher) -> None:
        # `leave` closes the source unless it came before there was one.
        if self.left:
            source.close()
        ignore = watcher.on_trouble(lambda _: self._nudge())
        try:
            for event in source:
                self._put(event)
        finally:
            ignore()

    def _put(self, event: Event) -> None:
        while not self.left:
            try:
                self._events.put(event, timeout=_SLICE)
            except Full:
                continue
            return

    def _nudge(self) -> None:
        """Let whoever waits for an event look around; who does not wait does so anyway."""
        with suppress(Full):
            self._events.put_nowait(None)
