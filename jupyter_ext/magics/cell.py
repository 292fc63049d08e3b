"""A cell that runs on the cluster in the foreground: its output, its status line, its end."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from queue import Empty
from typing import TYPE_CHECKING, NoReturn

from hakuriver.client.follow import Change, LinePrefixer, Output, labels
from hakuriver.client.futures import Batch, Task
from hakuriver.errors import Conflict, HakuRiverError, SubmissionRefused
from jupyter_ext.magics.errors import CellInterrupted, brief, last_lines
from jupyter_ext.magics.feed import Feed, tasks_of
from jupyter_ext.magics.screen import Screen
from jupyter_ext.magics.status import Status

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hakuriver.model.messages import Stream
    from hakuriver.model.views import FailedTarget
    from jupyter_ext.magics.feed import Event

# Seconds that an interrupted cell waits for its tasks to be gone; a node gives a task
# `timing.kill_grace` (5) to end by itself.
_GRACE = 20.0
# Seconds for the host to answer a submission that was interrupted.
_ANSWER = 10.0
# Characters of each task's output that are kept for the error.
_TAIL = 4 << 10
# Where the last words of a failure are looked for, best first.
_STREAMS: tuple[Stream, ...] = ("stderr", "stdout")


class Cell:
    """One run of a cell, from its submission to its end, on the kernel's main thread.

    Args:
        submit: makes the submission; called once, on another thread.
        store: takes the future as soon as there is one.
    """

    def __init__(
        self, submit: Callable[[], Task | Batch], *, store: Callable[[Task | Batch], None]
    ) -> None:
        self._feed = Feed(submit)
        self._store = store
        self._screen = Screen(_write)
        self._status = Status()
        self._labels: dict[str, str] = {}
        self._prefixers: dict[Stream, LinePrefixer] = {}
        self._tails: dict[tuple[str, Stream], str] = {}

    def run(self, *, raise_error: bool = True) -> None:
        """Run it to its end, showing what comes.

        Raises:
            TaskError: a task did not complete, unless `raise_error` is off.
            HakuRiverError: it could not be submitted or followed.
            CellInterrupted: an interrupt came; the tasks were killed.
        """
        try:
            self._feed.start()
            self._watch()
            self._end_output()
        except KeyboardInterrupt:
            raise CellInterrupted(self._interrupted()) from None
        finally:
            self._feed.leave()
        if self._feed.error is not None:
            self._raise_fault(self._feed.error)
        if raise_error:
            self._raise_failure()

    def _watch(self, *, deadline: float | None = None) -> bool:
        """Show what comes until the tasks have ended; False if the deadline came first."""
        while True:
            try:
                event = self._feed.events.get(timeout=self._pause(deadline))
            except Empty:
                # An interrupt may have swallowed the event that ends the feed.
                if self._feed.ended.is_set() and self._feed.events.empty():
                    return True
                if deadline is not None and time.monotonic() > deadline:
                    return False
            else:
                if event is None:
                    return True
                self._take(event)
            self._screen.show()
            self._status.show()

    def _pause(self, deadline: float | None) -> float | None:
        """Return the seconds until something is to be done even if nothing comes."""
        pauses = [self._screen.wait(), self._status.wait(), None if deadline is None else 0.25]
        return min((pause for pause in pauses if pause is not None), default=None)

    def _take(self, event: Event) -> None:
        if isinstance(event, Output):
            self._take_output(event.task.task_id, event.stream, event.text)
        elif isinstance(event, Change):
            self._status.change(event.view)
        elif event is not None:
            self._begin(event)

    def _begin(self, future: Task | Batch) -> None:
        self._store(future)
        self._status.begin(future)
        tasks = tasks_of(future)
        name = tasks[0].task_id if len(tasks) == 1 else "ID"
        self._screen.hint = f" (the whole log: %hakuriver logs {name})"
        if len(tasks) > 1:
            self._labels = labels(tasks)
            self._prefixers = {"stdout": LinePrefixer(), "stderr": LinePrefixer()}

    def _take_output(self, task_id: str, stream: Stream, text: str) -> None:
        self._tails[task_id, stream] = (self._tails.get((task_id, stream), "") + text)[-_TAIL:]
        if self._labels:
            text = self._prefixers[stream].add(self._labels[task_id], text)
        self._screen.add(stream, text)

    def _end_output(self) -> None:
        """Show all that still waits, then the last word of the status line."""
        for stream, prefixer in self._prefixers.items():
            self._screen.add(stream, prefixer.flush())
        self._screen.finish()
        self._screen.drain()
        self._status.end()

    def _interrupted(self) -> str:
        """Kill the tasks, wait until they are gone, and return what became of them."""
        try:
            self._feed.submitted.wait(_ANSWER)
            future = self._feed.future
            if future is None:
                return "nothing was submitted" if self._feed.error else "the host did not answer"
            self._status.begin(future)
            self._status.note("interrupted, killing")
            _kill(future)
            gone = self._watch(deadline=time.monotonic() + _GRACE)
            self._status.note("interrupted")
            self._end_output()
        except KeyboardInterrupt:
            gone = False
        except HakuRiverError as error:
            self._status.end(note="interrupted")
            return f"the kill did not reach the host, the task may still run: {error}"
        return self._status.fate(gone=gone)

    def _raise_fault(self, error: BaseException) -> NoReturn:
        self._status.end(note="the connection was lost" if self._feed.future else "")
        if not isinstance(error, HakuRiverError):
            raise error
        more: list[str] = []
        if isinstance(error, SubmissionRefused):
            reasons = _reasons(error.failed_targets)
            more = [line for line in reasons if line.strip() not in str(error)]
        if self._feed.future is not None:
            ids = " ".join(task.task_id for task in tasks_of(self._feed.future))
            more.append(f"it goes on without this cell; see %hakuriver status {ids}")
        raise brief(error, more) from None

    def _raise_failure(self) -> None:
        """Raise how a task failed, or that a target got none."""
        error = self._status.failure()
        if error is not None:
            raise brief(error, self._last_words(error.result.task_id))
        future = self._feed.future
        if isinstance(future, Batch) and future.failed_targets:
            refused = future.failed_targets
            count = f"{len(refused)} of {len(refused) + len(future)} targets got no task"
            raise brief(SubmissionRefused(count, refused), _reasons(refused))

    def _last_words(self, task_id: str) -> list[str]:
        """Return the last lines that the task wrote; fewer if they stand above anyway."""
        for stream in _STREAMS:
            text = self._tails.get((task_id, stream), "")
            lines = last_lines(text, 10 if self._screen.skipped else 3)
            if lines:
                option = " --stderr" if stream == "stderr" else ""
                return [*lines, f"the whole log: %hakuriver logs {task_id}{option}"]
        return []


def _reasons(refused: Sequence[FailedTarget]) -> list[str]:
    return [f"  {one.target}: {one.reason}" for one in refused]


def _kill(future: Task | Batch) -> None:
    # It may have ended meanwhile, which is what was asked for.
    with suppress(Conflict):
        future.kill()


def _write(stream: Stream, text: str) -> None:
    out = sys.stdout if stream == "stdout" else sys.stderr
    out.write(text)
    out.flush()
