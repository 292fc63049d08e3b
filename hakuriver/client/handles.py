"""`AsyncTask`, `AsyncBatch` and `TaskPage`: what an `AsyncClient` gives back."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, overload

from hakuriver.client.logs import read_text, split_lines
from hakuriver.client.outcome import is_final, outcome
from hakuriver.errors import Conflict
from hakuriver.model.views import TaskResult

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator, Iterable, Iterator

    from hakuriver.client.watch import Watch, Watcher
    from hakuriver.errors import HakuRiverError
    from hakuriver.model.messages import Stream
    from hakuriver.model.views import FailedTarget, TaskList, TaskView

#: So many tasks are asked for their end at a time: each request in flight is a connection.
_TOGETHER = 8


class AsyncTask:
    """One task, to await, follow or kill; cancelling a wait leaves the task running."""

    def __init__(self, watcher: Watcher, watch: Watch) -> None:
        self._watcher = watcher
        self._watch = watch

    def __repr__(self) -> str:
        return f"<AsyncTask {self.task_id} on {self.view.target}: {self.view.status.value}>"

    def __await__(self) -> Generator[object, None, TaskResult]:
        return self.result().__await__()

    @property
    def task_id(self) -> str:
        """The task's id, for other programs and commands."""
        return self._watch.view.task_id

    @property
    def batch_id(self) -> str:
        """The id of the batch it belongs to."""
        return self._watch.view.batch_id

    @property
    def view(self) -> TaskView:
        """The latest state known here; see `status` for the host's word."""
        return self._watch.view

    @property
    def watcher(self) -> Watcher:
        """What keeps this task's state up to date."""
        return self._watcher

    async def watched(self) -> Watch:
        """Return the task's watch, kept up to date from now on unless the task has ended."""
        if not self._watcher.follows(self._watch) and not is_final(self._watch.view):
            self._watch = await self._watcher.attach(self._watch.view)
        return self._watch

    async def result(self) -> TaskResult:
        """Wait for the end and return it; raise a `TaskError` unless the task completed."""
        watch = await self.watched()
        return outcome(await watch.until_ended())

    async def wait(self) -> TaskResult:
        """Wait for the end and return it, however the task ended."""
        watch = await self.watched()
        return TaskResult.of(await watch.until_ended())

    async def changes(self) -> AsyncIterator[TaskView]:
        """Give the present state and every later one, the final one last."""
        watch = await self.watched()
        async for view in watch.changes():
            yield view

    async def status(self) -> TaskView:
        """Ask the host for the task as it is now."""
        view = await self._watcher.cluster.status(self.task_id)
        self._watch.update(view)
        return view

    async def kill(self) -> None:
        """Ask the host to end the task; `Conflict` if it has ended already."""
        await self._watcher.cluster.kill(self.task_id)

    def logs(
        self, stream: Stream = "stdout", *, follow: bool = False, tail: int | None = None
    ) -> AsyncIterator[str]:
        """Give the log's lines, or its last `tail`, without newlines; `follow` to the end."""
        return split_lines(
            read_text(
                self._watcher.cluster,
                self.task_id,
                stream,
                follow=follow,
                tail=tail,
                patience=self._watcher.patience,
            )
        )

    async def text(self, stream: Stream = "stdout", *, tail: int | None = None) -> str:
        """Return the log as it is now, or its last `tail` lines, whole."""
        chunks = read_text(self._watcher.cluster, self.task_id, stream, tail=tail)
        return "".join([chunk async for chunk in chunks])


class TaskPage(Sequence["TaskView"]):
    """A page of tasks, newest first; `next_before` asks for the one after it, None at the end."""

    def __init__(self, page: TaskList) -> None:
        self.tasks = tuple(page.tasks)
        self.next_before = page.next_before

    def __repr__(self) -> str:
        more = "" if self.next_before is None else f", more before {self.next_before}"
        return f"<TaskPage of {len(self)} tasks{more}>"

    def __len__(self) -> int:
        return len(self.tasks)

    @overload
    def __getitem__(self, index: int) -> TaskView: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[TaskView, ...]: ...
    def __getitem__(self, index: int | slice) -> TaskView | tuple[TaskView, ...]:
        return self.tasks[index]


class AsyncBatch(Sequence[AsyncTask]):
    """The tasks of one submission, in the order of their targets, or of a whole batch.

    `failed_targets` are those that got no task, each with its reason. A submission that was
    refused whole among many has no tasks and an `error`, which its result raises. One that has
    `joined` the batch of another stands for its own tasks alone.
    """

    def __init__(
        self,
        batch_id: str,
        tasks: Iterable[AsyncTask],
        failed_targets: Iterable[FailedTarget] = (),
        *,
        error: HakuRiverError | None = None,
        joined: bool = False,
    ) -> None:
        self.batch_id = batch_id
        self._joined = joined
        self.failed_targets = tuple(failed_targets)
        self.error = error
        self._tasks = tuple(tasks)

    def __repr__(self) -> str:
        return f"<AsyncBatch {self.batch_id} of {len(self)} tasks>"

    def __await__(self) -> Generator[object, None, list[TaskResult]]:
        return self.result().__await__()

    def __len__(self) -> int:
        return len(self._tasks)

    @overload
    def __getitem__(self, index: int) -> AsyncTask: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[AsyncTask, ...]: ...
    def __getitem__(self, index: int | slice) -> AsyncTask | tuple[AsyncTask, ...]:
        return self._tasks[index]

    async def result(self) -> list[TaskResult]:
        """Wait until all have ended; return the results, or raise the first one's failure."""
        if self.error is not None:
            raise self.error
        await self.wait()
        return [outcome(task.view) for task in self._tasks]

    async def wait(self) -> list[TaskResult]:
        """Wait until all have ended and return the results, however they ended."""
        return [await task.wait() for task in self._tasks]

    async def kill(self) -> None:
        """Ask the host to end every task that has not ended yet."""
        # They may end meanwhile, which is what was asked for.
        unfinished = [task for task in self._tasks if not is_final(task.view)]
        if self._joined:
            # Submitted last, ended first: none of them starts in the place of another.
            rest = reversed(unfinished)
            await asyncio.gather(*(_kill_each(rest) for _ in range(_TOGETHER)))
        elif unfinished:
            with suppress(Conflict):
                await self._tasks[0].watcher.cluster.kill_batch(self.batch_id)


async def _kill_each(tasks: Iterator[AsyncTask]) -> None:
    for task in tasks:
        with suppress(Conflict):
            await task.kill()
