"""Running the combinations of a sweep on this machine, several at once, on one thread.

`LocalRun` starts processes, reads their pipes and waits for their ends with one selector: no thread
a process, no polling. Its events are pulled, so that a reader who is slow holds up the programs as
a pipe would.
"""

from __future__ import annotations

import os
import selectors
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from hakuriver.errors import ConfigError
from hakuriver.model.quantities import format_duration
from hakuriver.sweep.job import Job, Stage
from hakuriver.sweep.local.functions import Functions
from hakuriver.sweep.local.programs import Programs
from hakuriver.sweep.records import Ended, Started
from hakuriver.sweep.targets import Kind

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator
    from pathlib import Path

    from hakuriver.sweep.job import Crew
    from hakuriver.sweep.limits import Limits
    from hakuriver.sweep.plan import Plan
    from hakuriver.sweep.records import Event
    from hakuriver.sweep.targets import Program

_NOT_FOUND = 127
_NOT_STARTED = 126


class LocalRun:
    """One pass over combinations of a plan; iterate over `events` once, then close it.

    `sweep_id` marks all processes. `stop` may be called from any thread and from signal handlers.
    """

    def __init__(self, plan: Plan, program: Program, limits: Limits, sweep_id: str) -> None:
        if not hasattr(os, "pidfd_open"):
            raise ConfigError("sweeps run on Linux; elsewhere give --on to run them on a cluster")
        self._plan = plan
        self._program = program
        self._limits = limits
        self._sweep_id = sweep_id
        self._events: deque[Event] = deque()
        self._again: deque[tuple[int, int]] = deque()
        self._running: set[Job] = set()
        self._failures = 0
        self._width = len(str(len(plan)))
        #: Whether it was stopped before all had run, on request or by failures.
        self.stopped = False
        self._selector = selectors.DefaultSelector()
        self._null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._woken, self._wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._selector.register(self._woken, selectors.EVENT_READ, self._note_wake)
        self._crew = self._hire()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def stop(self) -> None:
        """Start no more, and end what runs: such combinations have no `Ended`."""
        self.stopped = True
        self._rouse()

    def events(self, indexes: Iterable[int]) -> Generator[Event]:
        """Run the combinations of these numbers in their order, and tell what happens.

        When this is left early, by an exception or by closing the iterator, all that runs is ended.
        """
        waiting = iter(indexes)
        try:
            while True:
                more = self._fill(waiting)
                while self._events:
                    yield self._events.popleft()
                if self.stopped or not (more or self._running or self._again):
                    break
                self._turn(wait=not more)
        finally:
            self._end_all()
        yield from self._events

    def close(self) -> None:
        """End all that runs and close all descriptors."""
        if self._wake < 0:
            return
        self._end_all()
        self._crew.close()
        self._selector.close()
        for descriptor in (self._null, self._woken, self._wake):
            os.close(descriptor)
        self._wake = -1

    def _hire(self) -> Crew:
        stage = Stage(
            selector=self._selector,
            emit=self._events.append,
            done=self._done,
            failed=self._not_started,
            wake=self._rouse,
            environment=dict(os.environb),
            null=self._null,
            sweep_id=self._sweep_id,
        )
        if self._program.kind is Kind.FUNCTION:
            return Functions(stage, self._program.command[0])
        return Programs(stage, self._program.command, self._limits.jobs)

    def _fill(self, waiting: Iterator[int]) -> bool:
        """Start what there is room for, those first that have failed and are tried again.

        Tell whether there may be more to start at once: where one could not be started, the others'
        output should not wait until all have been tried.
        """
        while len(self._running) < self._limits.jobs and not self.stopped:
            if self._again:
                index, attempt = self._again.popleft()
            else:
                index, attempt = next(waiting, -1), 1
            if index < 0:
                break
            self._start(index, attempt)
            if self._events and isinstance(self._events[-1], Ended):
                return True
        return False

    def _start(self, index: int, attempt: int) -> None:
        job = Job(index, attempt, f"{self._sweep_id}.{index}.{attempt}", self._files(index))
        if self._limits.timeout is not None:
            job.due = job.begun + self._limits.timeout
        self._running.add(job)
        self._events.append(Started(index, attempt))
        try:
            self._crew.start(job, self._plan[index].arguments)
        except (OSError, ValueError) as error:
            self._not_started(job, error)

    def _not_started(self, job: Job, error: Exception) -> None:
        code = _NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_STARTED
        why = getattr(error, "strerror", None) or str(error)
        self._done(job, code, reason=f"{self._program.name} cannot be started: {why}")

    def _files(self, index: int) -> tuple[Path, Path] | None:
        folder = self._limits.out_dir
        if folder is None:
            return None
        number = f"{index + 1:0{self._width}d}"
        return folder / f"{number}.out", folder / f"{number}.err"

    def _turn(self, *, wait: bool = True) -> None:
        """Take note of what has happened, after a wait for something to happen."""
        known = self._selector.get_map()
        for key, _ in self._selector.select(self._patience() if wait else 0):
            # One of these may have closed another that is in the same list.
            if known.get(key.fd) is key:
                key.data()
        self._look_at_clocks()

    def _patience(self) -> float | None:
        dues = [job.due for job in self._running if job.due is not None]
        return max(0.0, min(dues) - time.monotonic()) if dues else None

    def _look_at_clocks(self) -> None:
        now = time.monotonic()
        for job in [job for job in self._running if job.due is not None and job.due <= now]:
            if job.code is not None:
                self._crew.let_go(job)
            elif job.ending:
                job.kill()
            else:
                job.end(self._limits.grace)

    def _note_wake(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._woken, 1024)
        self._crew.collect()

    def _rouse(self) -> None:
        # A pipe that is full wakes as well.
        with suppress(BlockingIOError):
            os.write(self._wake, b"x")

    def _done(self, job: Job, code: int, *, reason: str = "", value: object = None) -> None:
        self._running.discard(job)
        if self.stopped and job.ending:
            return
        if job.ending and self._limits.timeout is not None:
            reason = f"timed out after {format_duration(self._limits.timeout)}"
            # A program that ends well when asked to has still not done its work.
            code = code or 1
        again = code != 0 and job.attempt <= self._limits.retries and not self.stopped
        self._events.extend(job.rest())
        self._events.append(
            Ended(
                job.index,
                code,
                time.monotonic() - job.begun if job.seconds is None else job.seconds,
                time.time(),
                attempt=job.attempt,
                tail=job.tail(),
                reason=reason,
                value=value,
                again=again,
            )
        )
        if again:
            self._again.append((job.index, job.attempt + 1))
        elif code:
            self._failures += 1
            if self._limits.max_failures and self._failures >= self._limits.max_failures:
                self.stopped = True

    def _end_all(self) -> None:
        """End what runs, and wait until it is gone; SIGKILL comes at once at an interrupt."""
        self.stopped = self.stopped or bool(self._running)
        try:
            for job in [job for job in self._running if not job.ending]:
                job.end(self._limits.grace)
            while self._running:
                self._turn()
        except BaseException:
            for job in list(self._running):
                job.kill()
            while self._running:
                self._turn()
            raise
