"""One attempt of a combination while it runs, and what those who run it have in common."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from hakuriver.sweep.lines import LineBuffer
from hakuriver.sweep.records import STREAMS, Output, Stream, tail_of
from hakuriver.sweep.trees import signal_tree

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from selectors import BaseSelector

    from hakuriver.sweep.records import Event

_TAIL_BYTES = 4000


def _buffers() -> dict[Stream, LineBuffer]:
    return {stream: LineBuffer() for stream in STREAMS}


@dataclass(slots=True, eq=False)
class Job:
    """A run of a combination; times are of the monotonic clock, in seconds.

    At `due` something must be done about it: it is to be ended, or killed if it is `ending`, or,
    once it has a `code`, its pipes are read no longer. `mark` is that of its processes.
    """

    index: int
    attempt: int
    mark: str
    files: tuple[Path, Path] | None = None
    begun: float = field(default_factory=time.monotonic)
    pid: int = 0
    due: float | None = None
    ending: bool = False
    code: int | None = None
    seconds: float | None = None
    buffers: dict[Stream, LineBuffer] = field(default_factory=_buffers)

    def take(self, stream: Stream, data: bytes) -> Output | None:
        """Take what was read of a stream and return the lines that are whole now."""
        lines = self.buffers[stream].add(data)
        return Output(self.index, stream, lines) if lines else None

    def rest(self) -> list[Output]:
        """Return the lines that were begun and not ended."""
        rests: list[tuple[Stream, bytes]] = [
            (stream, self.buffers[stream].flush()) for stream in STREAMS
        ]
        return [Output(self.index, stream, lines) for stream, lines in rests if lines]

    def tail(self) -> str:
        """Return the end of the standard output, wherever it went."""
        if self.files is None:
            return tail_of(self.buffers["stdout"].tail)
        try:
            with self.files[0].open("rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
                return tail_of(file.read())
        except OSError:
            return ""

    def is_started(self, pid: int) -> None:
        """Take note of its process, which is ended at once if that was to happen meanwhile."""
        self.pid = pid
        if self.ending:
            signal_tree(pid, self.mark, signal.SIGTERM)

    def end(self, grace: float) -> None:
        """End its tree with SIGTERM, and be due for `kill` after `grace` seconds."""
        self.ending = True
        self.due = time.monotonic() + grace
        if self.pid:
            signal_tree(self.pid, self.mark, signal.SIGTERM)

    def kill(self) -> None:
        """End its tree with SIGKILL."""
        self.ending = True
        self.due = None
        if self.pid:
            signal_tree(self.pid, self.mark, signal.SIGKILL)


class Done(Protocol):
    """What is called when a job has ended."""

    def __call__(self, job: Job, code: int, *, reason: str = "", value: object = None) -> None:
        """Take note of the end."""
        ...


@dataclass(frozen=True, slots=True)
class Stage:
    """What those who run jobs get of the sweep around them. `null` is a descriptor of nothing."""

    selector: BaseSelector
    emit: Callable[[Event], None]
    done: Done
    failed: Callable[[Job, Exception], None]
    wake: Callable[[], None]
    environment: dict[bytes, bytes]
    null: int
    sweep_id: str


class Crew(Protocol):
    """Those who run the jobs of a sweep: programs or functions."""

    def start(self, job: Job, arguments: Sequence[str]) -> None:
        """Start a job; raise `OSError` or `ValueError` if that cannot be done."""
        ...

    def collect(self) -> None:
        """Take note of what other threads have done."""
        ...

    def let_go(self, job: Job) -> None:
        """Wait no longer for what holds the pipes of a job that has ended."""
        ...

    def close(self) -> None:
        """End what is not part of a job."""
        ...
