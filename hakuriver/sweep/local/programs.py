"""Jobs that are programs: a process for each."""

from __future__ import annotations

import os
import signal
import time
from functools import partial
from selectors import EVENT_READ
from typing import TYPE_CHECKING

from hakuriver.sweep.local.children import Child, environment_for, output_pipes, read_some
from hakuriver.sweep.local.spawn import Order, Spawner
from hakuriver.sweep.records import STREAMS
from hakuriver.sweep.trees import signal_group, signal_tree

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hakuriver.sweep.job import Job, Stage
    from hakuriver.sweep.records import Stream

#: So many seconds is a pipe read on that something which outlived its job holds open.
_LINGER = 1.0


class Programs:
    """Runs jobs as `command` with the arguments of each; see `Crew`."""

    def __init__(self, stage: Stage, command: Sequence[str], jobs: int) -> None:
        self._stage = stage
        self._command = tuple(command)
        self._children: dict[Job, Child] = {}
        # Starting one takes a CPU for a while, so that more threads than CPUs gain nothing.
        self._spawner = Spawner(min(jobs, os.cpu_count() or 1), stage.wake)

    def start(self, job: Job, arguments: Sequence[str]) -> None:
        """Have the program of a job started."""
        stage = self._stage
        child, theirs = Child(), dict[int, int]()
        given: dict[int, int | str] = {0: stage.null}
        if job.files is None:
            child, theirs = output_pipes()
            given.update(theirs)
        else:
            given.update(enumerate(map(str, job.files), start=1))
        environment = environment_for(
            stage.environment,
            job.mark,
            sweep=stage.sweep_id,
            index=job.index + 1,
            attempt=job.attempt,
        )
        self._children[job] = child
        order = Order((*self._command, *arguments), environment, given)

        def answer(result: int | Exception) -> None:
            for descriptor in theirs.values():
                os.close(descriptor)
            self._started(job, child, result)

        self._spawner.order(order, answer)

    def collect(self) -> None:
        """Take note of the programs that have been started meanwhile."""
        self._spawner.collect()

    def let_go(self, job: Job) -> None:
        """Wait no longer for the pipes of a job whose process has ended."""
        for stream in STREAMS:
            self._leave(self._children[job], stream)
        self._finish(job)

    def close(self) -> None:
        """End the threads that start programs."""
        self._spawner.close()

    def _started(self, job: Job, child: Child, result: int | Exception) -> None:
        if isinstance(result, Exception):
            self._children.pop(job).close()
            self._stage.failed(job, result)
            return
        child.is_started(result)
        job.is_started(child.pid)
        register = self._stage.selector.register
        register(child.pidfd, EVENT_READ, lambda: self._ended(job))
        for stream in STREAMS:
            if child.get(stream) >= 0:
                register(child.get(stream), EVENT_READ, partial(self._read, job, stream))

    def _ended(self, job: Job) -> None:
        child = self._children[job]
        # Before it is reaped, so that no other process can have the number.
        if job.ending:
            signal_tree(child.pid, job.mark, signal.SIGKILL)
        else:
            signal_group(child.pid, signal.SIGKILL)
        self._stage.selector.unregister(child.pidfd)
        job.seconds = time.monotonic() - job.begun
        job.code = child.reap()
        job.due = time.monotonic() + _LINGER
        for stream in STREAMS:
            while child.get(stream) >= 0 and self._take(job, child, stream):
                pass
        self._finish_if_read(job, child)

    def _read(self, job: Job, stream: Stream) -> None:
        child = self._children[job]
        self._take(job, child, stream)
        if job.code is not None:
            self._finish_if_read(job, child)

    def _take(self, job: Job, child: Child, stream: Stream) -> bool:
        """Read once; tell whether there may be more to read at once."""
        data = read_some(child.get(stream))
        if data is None:
            return False
        if not data:
            self._leave(child, stream)
            return False
        output = job.take(stream, data)
        if output is not None:
            self._stage.emit(output)
        return True

    def _leave(self, child: Child, stream: Stream) -> None:
        if child.get(stream) >= 0:
            self._stage.selector.unregister(child.get(stream))
            child.close_one(stream)

    def _finish_if_read(self, job: Job, child: Child) -> None:
        if all(child.get(stream) < 0 for stream in STREAMS):
            self._finish(job)

    def _finish(self, job: Job) -> None:
        self._children.pop(job).close()
        assert job.code is not None  # noqa: S101 - its process has ended
        self._stage.done(job, job.code)
