"""`Task` and `Batch`: standard futures over what runs on the cluster.

They serve scripts (``result``, `concurrent.futures.wait`, ``as_completed``) and notebooks
(``await task``) alike. Their callbacks run on the client's own thread: keep them short, and call
nothing of the client in them that waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Protocol, TypeVar, overload

from hakuriver.client.logs import LineSplitter, read_text
from hakuriver.client.outcome import outcome
from hakuriver.client.portal import SLICE, Drain
from hakuriver.client.render import mimebundle
from hakuriver.errors import Conflict, HakuRiverError
from hakuriver.model.tasks import TaskState
from hakuriver.model.views import TaskResult

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator, Iterable, Iterator

    from hakuriver.client.handles import AsyncBatch, AsyncTask
    from hakuriver.client.portal import Portal
    from hakuriver.client.watch import Watch
    from hakuriver.model.messages import Stream
    from hakuriver.model.views import FailedTarget, TaskView

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class Owner(Protocol):
    """Whose loop tasks are on: a `Client`. It closes when nobody holds it, so they do."""

    @property
    def portal(self) -> Portal:
        """The way to that loop."""
        ...


class _Awaitable(Future[_T]):
    """A future that may also be awaited, on any event loop."""

    def __await__(self) -> Generator[object, None, _T]:
        return self._in_slices().__await__()

    def _become_cancelled(self) -> None:
        """Be cancelled, and tell all who wait."""
        super().cancel()
        self.set_running_or_notify_cancel()

    async def _in_slices(self) -> _T:
        """Wait for the end; cancelling this wait leaves the future alone."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()

        def tell(_: Future[_T]) -> None:
            # The loop may be closed by the time the task ends.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_settle, ended)

        self.add_done_callback(tell)
        # In slices, because the interrupt of a notebook does not wake a loop that sleeps.
        while not self.done():
            await asyncio.wait({ended}, timeout=SLICE)
        return self.result()


class Task(_Awaitable[TaskResult]):
    """One task: a future of its `TaskResult`.

    The result raises `TaskFailed`, `TaskOutOfMemory`, `TaskKilled` or `TaskLost` unless the task
    completed; for a lost task, `status` may show later what really became of it.
    """

    def __init__(self, owner: Owner, handle: AsyncTask, watch: Watch) -> None:
        super().__init__()
        self._owner = owner
        self._handle = handle
        self._cancelling = False
        self._leave = watch.listen(self._changed)
        self._changed(watch)

    def __repr__(self) -> str:
        return f"<Task {self.task_id} on {self.view.target}: {self.view.status.value}>"

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        return mimebundle(repr(self), [self.view])

    @property
    def task_id(self) -> str:
        """The task's id, for other programs and commands."""
        return self._handle.task_id

    @property
    def batch_id(self) -> str:
        """The id of the batch it belongs to."""
        return self._handle.batch_id

    @property
    def view(self) -> TaskView:
        """The latest state known here, without asking the host."""
        return self._handle.view

    @property
    def handle(self) -> AsyncTask:
        """The asynchronous task below, which belongs to the client's own loop."""
        return self._handle

    @property
    def portal(self) -> Portal:
        """The way to the client's own loop."""
        return self._owner.portal

    def running(self) -> bool:
        """Tell whether the task's process runs, as far as is known here."""
        return self.view.status is TaskState.RUNNING

    def cancel(self) -> bool:
        """Ask the host to kill the task; return False if it has ended already.

        Returns at once. The future becomes cancelled when the host says that the task is killed;
        should the task end by itself before, the future tells that.
        """
        if self.done():
            return self.cancelled()
        return _ask_for_end([self], self._handle.kill)

    def cancelling(self) -> None:
        """Take the task's end, should it be killed, as the wish of whoever holds this."""
        self._cancelling = True

    def kill(self) -> None:
        """Ask the host to end the task; the result raises `TaskKilled` when it is gone.

        Raises:
            Conflict: it has ended already.
        """
        self.portal.call(self._handle.kill())

    def status(self) -> TaskView:
        """Ask the host for the task as it is now."""
        return self.portal.call(self._handle.status())

    def logs(
        self, stream: Stream = "stdout", *, follow: bool = False, tail: int | None = None
    ) -> Iterator[str]:
        """Give the log's lines, or its last `tail`, without newlines; `follow` to the end."""
        watcher = self._handle.watcher
        splitter = LineSplitter()
        with Drain(
            self.portal,
            lambda: read_text(
                watcher.cluster,
                self.task_id,
                stream,
                follow=follow,
                tail=tail,
                patience=watcher.patience,
            ),
        ) as chunks:
            for chunk in chunks:
                yield from splitter.feed(chunk)
        yield from splitter.flush()

    def text(self, stream: Stream = "stdout", *, tail: int | None = None) -> str:
        """Return the log as it is now, or its last `tail` lines, whole."""
        return self.portal.call(self._handle.text(stream, tail=tail))

    def _changed(self, watch: Watch) -> None:
        """Resolve the future when the task has ended; runs on the client's loop."""
        if self.done() or not watch.ended:
            return
        self._leave()
        if watch.error is not None:
            self.set_exception(watch.error)
        elif self._cancelling and watch.view.status is TaskState.KILLED:
            self._become_cancelled()
        else:
            try:
                result = outcome(watch.view)
            except HakuRiverError as error:
                self.set_exception(error)
            else:
                self.set_result(result)


class Batch(_Awaitable[list[TaskResult]], Sequence[Task]):
    """The tasks of a submission, or of a whole batch, and a future of their results.

    It is done when all have ended; its result raises the first task's failure. `failed_targets`
    are those that got no task, each with its reason.
    """

    def __init__(self, handle: AsyncBatch, tasks: Iterable[Task]) -> None:
        super().__init__()
        self._handle = handle
        self._tasks = tuple(tasks)
        self._waiting = len(self._tasks)
        self._lock = threading.Lock()
        for task in self._tasks:
            task.add_done_callback(self._one_ended)
        if handle.error is not None:
            self.set_exception(handle.error)

    def __repr__(self) -> str:
        return f"<Batch {self.batch_id} of {len(self)} tasks, {self._waiting} unfinished>"

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        return mimebundle(repr(self), [task.view for task in self._tasks])

    @property
    def batch_id(self) -> str:
        """The batch's id, for other programs and commands; empty where it has no tasks."""
        return self._handle.batch_id

    @property
    def failed_targets(self) -> tuple[FailedTarget, ...]:
        """The targets that got no task, each with its reason."""
        return self._handle.failed_targets

    @property
    def handle(self) -> AsyncBatch:
        """The asynchronous batch below, which belongs to the client's own loop."""
        return self._handle

    def __len__(self) -> int:
        return len(self._tasks)

    @overload
    def __getitem__(self, index: int) -> Task: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Task, ...]: ...
    def __getitem__(self, index: int | slice) -> Task | tuple[Task, ...]:
        return self._tasks[index]

    def running(self) -> bool:
        """Tell whether any task's process runs, as far as is known here."""
        return any(task.running() for task in self._tasks)

    def cancel(self) -> bool:
        """Ask the host to kill every task that has not ended; False if all have."""
        unfinished = [task for task in self._tasks if not task.done()]
        return bool(unfinished) and _ask_for_end(unfinished, self._handle.kill)

    def kill(self) -> None:
        """Ask the host to end every task that has not ended yet."""
        if self._tasks:
            self._tasks[0].portal.call(self._handle.kill())

    def _one_ended(self, _: Future[TaskResult]) -> None:
        with self._lock:
            self._waiting -= 1
            if self._waiting:
                return
        # Outside the lock: this runs the callbacks of whoever waits for the batch.
        failures = (task.exception() for task in self._tasks if not task.cancelled())
        failure = next((error for error in failures if error is not None), None)
        if failure is not None:
            self.set_exception(failure)
        elif any(task.cancelled() for task in self._tasks):
            self._become_cancelled()
        else:
            self.set_result([task.result() for task in self._tasks])


def _ask_for_end(
    tasks: Sequence[Task], kill: Callable[[], Coroutine[object, object, None]]
) -> bool:
    """Mark `tasks`, of one client, as being cancelled and let `kill` run; return at once."""
    for task in tasks:
        task.cancelling()
    try:
        asked = tasks[0].portal.schedule(kill())
    except Conflict:
        return False
    asked.add_done_callback(_forgive)
    return True


def _settle(ended: asyncio.Future[None]) -> None:
    if not ended.done():
        ended.set_result(None)


def _forgive(asked: Future[None]) -> None:
    """Note why a kill that nobody waits for could not be asked."""
    if asked.cancelled():
        return
    error = asked.exception()
    if error is not None and not isinstance(error, Conflict):
        _log.warning("the host could not be asked to kill a task: %s", error)
