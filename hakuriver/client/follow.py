"""Following several tasks at once: their output and their changes of state in one stream.

`follow` is for synchronous code, `follow_async` for asynchronous; both give output and
changes as they come and end when all tasks have ended and their logs are whole.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, TypeAlias

from hakuriver.client.logs import Errors, read_text
from hakuriver.client.outcome import is_final
from hakuriver.client.portal import Drain, retrieve
from hakuriver.client.prefix import LinePrefixer
from hakuriver.errors import HakuRiverError, NodeOffline

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Sequence

    from hakuriver.client.futures import Task
    from hakuriver.client.handles import AsyncTask
    from hakuriver.model.messages import Stream
    from hakuriver.model.views import TaskView

__all__ = [
    "STREAMS",
    "AsyncChange",
    "AsyncOutput",
    "Change",
    "Follow",
    "LinePrefixer",
    "Output",
    "follow",
    "follow_async",
    "labels",
]

_AHEAD = 64
#: What a task writes, and what is followed unless told otherwise.
STREAMS: tuple[Stream, ...] = ("stdout", "stderr")


@dataclass(frozen=True, slots=True)
class Output:
    """A piece of a task's output, cut anywhere but within a character."""

    task: Task
    stream: Stream
    text: str


@dataclass(frozen=True, slots=True)
class Change:
    """A task's state; the final one comes after all of the task's output."""

    task: Task
    view: TaskView


@dataclass(frozen=True, slots=True)
class AsyncOutput:
    """`Output` of an `AsyncTask`."""

    task: AsyncTask
    stream: Stream
    text: str


@dataclass(frozen=True, slots=True)
class AsyncChange:
    """`Change` of an `AsyncTask`."""

    task: AsyncTask
    view: TaskView


_Queue: TypeAlias = "asyncio.Queue[AsyncOutput | AsyncChange | None]"


class Follow:
    """A synchronous iterator of `Output` and `Change`, which can be closed.

    An interrupt leaves it usable: whoever catches ``KeyboardInterrupt`` may go on with the same
    object, and nothing is lost or doubled.
    """

    def __init__(
        self,
        tasks: Iterable[Task],
        *,
        streams: Sequence[Stream] = STREAMS,
        errors: Errors = "replace",
    ) -> None:
        self._tasks = {task.task_id: task for task in tasks}
        handles = [task.handle for task in self._tasks.values()]
        portals = {task.portal for task in self._tasks.values()}
        if len(portals) != 1:
            raise ValueError("give at least one task to follow, and all of them from one Client")
        self._drain = Drain(
            portals.pop(), lambda: follow_async(handles, streams=streams, errors=errors)
        )

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Output | Change:
        item = next(self._drain)
        task = self._tasks[item.task.task_id]
        if isinstance(item, AsyncOutput):
            return Output(task, item.stream, item.text)
        return Change(task, item.view)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop following; the tasks go on."""
        self._drain.close()


def follow(
    tasks: Iterable[Task], *, streams: Sequence[Stream] = STREAMS, errors: Errors = "replace"
) -> Follow:
    """Follow tasks of one `Client` from the start of their logs; see `Follow`.

    Without `streams` only changes of state come. With `errors` = "surrogateescape" the text,
    encoded the same way, gives the exact bytes.
    """
    return Follow(tasks, streams=streams, errors=errors)


async def follow_async(
    tasks: Iterable[AsyncTask],
    *,
    streams: Sequence[Stream] = STREAMS,
    errors: Errors = "replace",
) -> AsyncGenerator[AsyncOutput | AsyncChange]:
    """Follow tasks from the start of their logs, as `follow` does."""
    queue: _Queue = asyncio.Queue(_AHEAD)
    followed = asyncio.create_task(_follow_all(tuple(tasks), streams, queue, errors))
    followed.add_done_callback(retrieve)
    try:
        while (item := await queue.get()) is not None:
            yield item
        await followed
    finally:
        followed.cancel()
        await asyncio.wait({followed})


def labels(tasks: Iterable[Task | AsyncTask]) -> dict[str, str]:
    """Return for each task id a short name that no other has: its target, else with its id."""
    targets = {task.task_id: task.view.target for task in tasks}
    counts = Counter(targets.values())
    return {
        task_id: target if counts[target] == 1 and target != "-" else f"{target}#{task_id}"
        for task_id, target in targets.items()
    }


async def _follow_all(
    tasks: Sequence[AsyncTask], streams: Sequence[Stream], queue: _Queue, errors: Errors
) -> None:
    """Fill `queue` with all that comes, and None at the end."""
    failure: BaseException | None = None
    try:
        async with asyncio.TaskGroup() as group:
            for task in tasks:
                group.create_task(_follow_one(task, streams, queue, errors))
    except* HakuRiverError as failures:
        # Raised in here, it would come out within a group again.
        failure = _first(failures)
    finally:
        await queue.put(None)
    if failure is not None:
        raise failure


async def _follow_one(
    task: AsyncTask, streams: Sequence[Stream], queue: _Queue, errors: Errors
) -> None:
    final: TaskView | None = None
    async with asyncio.TaskGroup() as logs:
        for stream in streams:
            logs.create_task(_copy_log(task, stream, queue, errors))
        async for view in task.changes():
            if is_final(view):
                final = view
            else:
                await queue.put(AsyncChange(task, view))
    if final is not None:
        await queue.put(AsyncChange(task, final))


async def _copy_log(task: AsyncTask, stream: Stream, queue: _Queue, errors: Errors) -> None:
    watcher = task.watcher
    source = read_text(
        watcher.cluster,
        task.task_id,
        stream,
        follow=True,
        errors=errors,
        patience=watcher.patience,
    )
    # The log of a lost task may be out of reach; its last change of state tells as much.
    with suppress(NodeOffline):
        async with aclosing(source):
            async for text in source:
                await queue.put(AsyncOutput(task, stream, text))


def _first(failures: BaseExceptionGroup[HakuRiverError]) -> BaseException:
    """Return the first single exception in a tree of groups."""
    error: BaseException = failures
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
