"""A future that is shown in the foreground: its output, its status line, its end, an interrupt."""

from __future__ import annotations

import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Generic, Literal, NoReturn

from hakuriver.client.futures import Batch, Task
from hakuriver.errors import Conflict, HakuRiverError, SubmissionRefused
from jupyter_ext.magics.errors import CellInterrupted, brief
from jupyter_ext.magics.feed import F
from jupyter_ext.magics.viewer import Viewer

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from hakuriver.model.views import FailedTarget
    from jupyter_ext.magics.feed import Feed

    OnInterrupt = Literal["kill", "detach"]

# Seconds that an interrupted cell waits for its tasks to be gone; a node gives a task
# `timing.kill_grace` (5) to end by itself.
_GRACE = 20.0
# Seconds for the host to answer a submission that was interrupted.
_ANSWER = 10.0


class Cell(Generic[F]):
    """One run of a cell or command that has a future, on the kernel's main thread.

    Args:
        feed: gives the future and what it brings; not started yet.
        store: takes the future as soon as there is one.
        word: what has been done with the tasks when there is a future.
        on_interrupt: whether an interrupt ends the tasks, or only the looking at them.
    """

    def __init__(
        self,
        feed: Feed[F],
        *,
        store: Callable[[F], None],
        word: str = "submitted",
        on_interrupt: OnInterrupt = "kill",
    ) -> None:
        self.viewer = Viewer(feed)
        self._feed = feed
        self._store = store
        self._word = word
        self._on_interrupt = on_interrupt

    def run(self, *, raise_error: bool = True) -> F:
        """Show what comes to the end and return the future.

        Raises:
            TaskError: a task did not complete, unless `raise_error` is off.
            HakuRiverError: it could not be submitted or followed.
            CellInterrupted: an interrupt came.
        """
        try:
            with self._interruptible():
                future = self._obtain()
                self._begin(future)
                self.viewer.watch()
                self.viewer.end()
        finally:
            self._feed.leave()
        if self._feed.error is not None:
            self._raise_fault(self._feed.error)
        if raise_error:
            self._raise_failure(future)
        return future

    def detach(self, go_on: Callable[[Viewer], None]) -> F:
        """Return the future as soon as there is one; `go_on` shows what comes from then on.

        Raises:
            HakuRiverError: it could not be submitted.
            CellInterrupted: an interrupt came before the host's answer.
        """
        try:
            with self._interruptible():
                future = self._obtain()
                self._begin(future)
                go_on(self.viewer)
        except BaseException:
            self._feed.leave()
            raise
        return future

    def obtain(self) -> F:
        """Return the future as soon as there is one, and show nothing; raises as `detach`."""
        with self._interruptible():
            future = self._obtain()
            self._store(future)
        return future

    def _obtain(self) -> F:
        self._feed.start()
        self._feed.answered.wait()
        if self._feed.future is None:
            self._raise_fault(self._feed.error)
        return self._feed.future

    def _begin(self, future: F) -> None:
        self._store(future)
        self.viewer.begin(future, self._word)

    @contextmanager
    def _interruptible(self) -> Generator[None]:
        try:
            yield
        except KeyboardInterrupt:
            raise CellInterrupted(self._interrupted()) from None

    def _interrupted(self) -> str:
        """Do what an interrupt is to do, and return what became of the tasks."""
        try:
            self._feed.answered.wait(_ANSWER)
            if self._feed.future is None:
                return self._no_future()
            self._begin(self._feed.future)
            if self._on_interrupt == "detach":
                return self._part(self._feed.future)
            return self._kill(self._feed.future)
        except KeyboardInterrupt:
            # Who interrupts again will not wait.
            if self._feed.future is None:
                return self._no_future()
            if self._on_interrupt == "detach":
                return way_back(self._feed.future)
            return self.viewer.status.fate(gone=False)

    def _no_future(self) -> str:
        if self._feed.error is not None:
            return f"nothing was {self._word}"
        return "the host has not answered yet, and may still do what it was asked for"

    def _part(self, future: F) -> str:
        """Look no longer; return how to come back."""
        self._feed.leave()
        self.viewer.watch(deadline=time.monotonic() + _ANSWER)
        goes_on = bool(self.viewer.status.unfinished())
        self.viewer.end(note="interrupted, goes on" if goes_on else "interrupted")
        return way_back(future) if goes_on else "nothing was left to wait for"

    def _kill(self, future: F) -> str:
        """Kill the tasks, wait until they are gone, and return what became of them."""
        status = self.viewer.status
        try:
            status.note("interrupted, killing")
            # It may have ended meanwhile, which is what was asked for.
            if isinstance(future, Task | Batch):
                with suppress(Conflict):
                    future.kill()
            gone = self.viewer.watch(deadline=time.monotonic() + _GRACE)
            self.viewer.end(note="interrupted")
        except HakuRiverError as error:
            status.end(note="interrupted")
            return f"the kill did not reach the host, the task may still run: {error}"
        return status.fate(gone=gone)

    def _raise_fault(self, error: BaseException | None) -> NoReturn:
        if not isinstance(error, HakuRiverError):
            raise error or AssertionError
        more: list[str] = []
        if isinstance(error, SubmissionRefused):
            reasons = _reasons(error.failed_targets)
            more = [line for line in reasons if line.strip() not in str(error)]
        if self._feed.future is not None:
            self.viewer.status.end(note="the connection was lost")
            more.append(way_back(self._feed.future))
        raise brief(error, more) from None

    def _raise_failure(self, future: F) -> None:
        """Raise how a task failed, or that a target got none."""
        error = self.viewer.status.failure()
        if error is not None:
            raise brief(error, self.viewer.last_words(error.result.task_id))
        if isinstance(future, Batch) and future.failed_targets:
            refused = future.failed_targets
            count = f"{len(refused)} of {len(refused) + len(future)} targets got no task"
            raise brief(SubmissionRefused(count, refused), _reasons(refused))


def way_back(future: Task | Sequence[Task]) -> str:
    """Return how to take up and how to end what goes on, as the end of a cell's message."""
    if isinstance(future, Task):
        return (
            f"task {future.task_id} goes on; come back with %hakuriver attach {future.task_id}, "
            f"end it with %hakuriver kill {future.task_id}"
        )
    if isinstance(future, Batch):
        return (
            f"the tasks of batch {future.batch_id} go on; come back with "
            f"%hakuriver attach {future.batch_id}, end them with "
            f"%hakuriver kill-batch {future.batch_id}"
        )
    ids = " ".join(task.task_id for task in future if not task.done())
    return f"the tasks go on; come back with %hakuriver wait {ids}"


def _reasons(refused: Sequence[FailedTarget]) -> list[str]:
    return [f"  {one.target}: {one.reason}" for one in refused]
