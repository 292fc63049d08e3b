"""Jobs that are calls of a Python function, in processes that import once and are used again."""

from __future__ import annotations

import json
import os
import signal
import time
from functools import partial
from selectors import EVENT_READ
from typing import TYPE_CHECKING

from hakuriver.sweep.local.children import Child, environment_for, read_some, start_worker
from hakuriver.sweep.records import STREAMS
from hakuriver.sweep.trees import signal_group, signal_tree

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from hakuriver.sweep.job import Job, Stage
    from hakuriver.sweep.records import Stream

_NEVER = 1


class _Worker:
    """A process that makes calls, one at a time; `job` is the one it makes now."""

    def __init__(self, child: Child, mark: str) -> None:
        self.child = child
        self.mark = mark
        self.job: Job | None = None
        self.answer = b""
        self.files: dict[Stream, int] = {}


class Functions:
    """Runs jobs as calls of ``module:function``; see `Crew`.

    A process that ends within a call fails that call alone; the next one gets a new process.
    """

    def __init__(self, stage: Stage, function: str) -> None:
        self._stage = stage
        self._function = function
        self._idle: list[_Worker] = []
        self._made = 0

    def start(self, job: Job, arguments: Sequence[str]) -> None:
        """Have a process make the call of a job, one that is idle if there is any."""
        worker = self._idle.pop() if self._idle else self._make()
        worker.job = job
        job.mark = worker.mark
        job.is_started(worker.child.pid)
        if job.files is not None:
            worker.files = {
                stream: _create(path) for stream, path in zip(STREAMS, job.files, strict=True)
            }
        call = memoryview(json.dumps(list(arguments)).encode() + b"\n")
        try:
            while call:
                call = call[os.write(worker.child.calls, call) :]
        except BrokenPipeError:
            # It has ended just now, of which its descriptor tells as well.
            return

    def collect(self) -> None:
        """Do nothing: all is done when it is told."""

    def let_go(self, job: Job) -> None:
        """Do nothing: no job waits for a pipe."""

    def close(self) -> None:
        """End the processes that are idle: they see that no more calls come."""
        for worker in self._idle:
            self._stage.selector.unregister(worker.child.pidfd)
            signal_group(worker.child.pid, signal.SIGKILL)
            worker.child.reap()
            self._part(worker)
        self._idle.clear()

    def _make(self) -> _Worker:
        stage = self._stage
        self._made += 1
        mark = f"{stage.sweep_id}.worker{self._made}"
        environment = environment_for(stage.environment, mark, sweep=stage.sweep_id)
        worker = _Worker(start_worker(self._function, environment, stage.null), mark)
        child = worker.child
        stage.selector.register(child.answers, EVENT_READ, lambda: self._answered(worker))
        stage.selector.register(child.pidfd, EVENT_READ, lambda: self._ended(worker))
        for stream in STREAMS:
            read = partial(self._read, worker, stream)
            stage.selector.register(child.get(stream), EVENT_READ, read)
        return worker

    def _answered(self, worker: _Worker) -> None:
        data = os.read(worker.child.answers, 1 << 16)
        if not data:
            # It has closed them, or is about to end.
            self._stage.selector.unregister(worker.child.answers)
            worker.child.close_one("answers")
            return
        worker.answer += data
        if not worker.answer.endswith(b"\n"):
            return
        answer, worker.answer = json.loads(worker.answer), b""
        job = self._release(worker)
        if job is None:
            return
        if job.ending:
            # Its tree is being ended, it with that.
            worker.job = job
            return
        self._idle.append(worker)
        self._stage.done(job, answer["code"], value=answer.get("value"))

    def _ended(self, worker: _Worker) -> None:
        child = worker.child
        job = self._release(worker)
        if job is not None and job.ending:
            signal_tree(child.pid, worker.mark, signal.SIGKILL)
        else:
            signal_group(child.pid, signal.SIGKILL)
        self._stage.selector.unregister(child.pidfd)
        code = child.reap()
        self._part(worker)
        if worker in self._idle:
            self._idle.remove(worker)
        if job is not None:
            reason = "" if job.ending else "the process ended within the call"
            self._stage.done(job, code or _NEVER, reason=reason)

    def _release(self, worker: _Worker) -> Job | None:
        """Take what was written until now as the job's, and the job from the worker."""
        for stream in STREAMS:
            while worker.child.get(stream) >= 0 and self._read(worker, stream):
                pass
        for descriptor in worker.files.values():
            os.close(descriptor)
        worker.files = {}
        job, worker.job = worker.job, None
        if job is not None:
            job.seconds = time.monotonic() - job.begun
        return job

    def _read(self, worker: _Worker, stream: Stream) -> bool:
        """Read once; tell whether there may be more to read at once."""
        data = read_some(worker.child.get(stream))
        if data is None:
            return False
        if not data:
            self._stage.selector.unregister(worker.child.get(stream))
            worker.child.close_one(stream)
            return False
        job = worker.job
        if job is None:
            # What a thread writes between two calls belongs to none.
            return True
        if stream in worker.files:
            _write(worker.files[stream], data)
            return True
        output = job.take(stream, data)
        if output is not None:
            self._stage.emit(output)
        return True

    def _part(self, worker: _Worker) -> None:
        for name in (*STREAMS, "answers"):
            if worker.child.get(name) >= 0:
                self._stage.selector.unregister(worker.child.get(name))
        worker.child.close()


def _create(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
