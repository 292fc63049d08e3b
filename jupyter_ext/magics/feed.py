"""A submission and its output, brought to the main thread by a thread of its own.

The main thread of a kernel is where an interrupt arrives. It only ever waits here for the next
event, so that an interrupt takes effect at once and never between a request and its answer.
"""

from __future__ import annotations

import threading
from queue import Full, Queue
from typing import TYPE_CHECKING

from hakuriver.client.follow import follow
from hakuriver.client.futures import Batch, Task

if TYPE_CHECKING:
    from collections.abc import Callable

    from hakuriver.client.follow import Change, Follow, Output

    Event = Task | Batch | Output | Change | None

# Events that wait to be taken: enough to keep both sides busy, too few to fill the memory.
_QUEUED = 64
_SLICE = 0.5


def tasks_of(future: Task | Batch) -> list[Task]:
    """Return the tasks behind a future."""
    return list(future) if isinstance(future, Batch) else [future]


class Feed:
    """Submits, then follows what came of it.

    `events` gives the future, then output and changes, then None. `error` holds what ended it
    early, `future` the future as soon as `submitted` is set, None if there is none.
    """

    def __init__(self, submit: Callable[[], Task | Batch]) -> None:
        self.events: Queue[Event] = Queue(_QUEUED)
        self.submitted = threading.Event()
        self.ended = threading.Event()
        self.future: Task | Batch | None = None
        self.error: BaseException | None = None
        self._submit = submit
        self._follow: Follow | None = None
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hakuriver-cell", daemon=True)

    def start(self) -> None:
        """Submit now; returns at once."""
        self._thread.start()

    def leave(self) -> None:
        """Take no more events and end the thread; the tasks go on."""
        self._left.set()
        if self._follow is not None:
            self._follow.close()

    def _run(self) -> None:
        try:
            self.future = self._submit()
            self.submitted.set()
            self._put(self.future)
            self._follow = follow(tasks_of(self.future))
            for event in self._follow:
                self._put(event)
        except BaseException as error:  # noqa: BLE001 - the main thread raises it
            self.error = error
        finally:
            self.submitted.set()
            self.ended.set()
            self._put(None)

    def _put(self, event: Event) -> None:
        while not self._left.is_set():
            try:
                self.events.put(event, timeout=_SLICE)
            except Full:
                continue
            return
