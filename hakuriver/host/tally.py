"""What the host counts and times, for whoever watches it. Plain numbers, no library."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING

from hakuriver.model.tasks import FINAL, TaskState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hakuriver.host.records import TaskRecord

#: Upper bounds of buckets, in seconds: of what the host does, and of what tasks take.
QUICK = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
SLOW = (0.1, 1.0, 10.0, 60.0, 300.0, 900.0, 3600.0, 4 * 3600.0, 86400.0, 7 * 86400.0)
#: Of how many changes share a commit.
SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 1024.0)

_METHODS = frozenset(("GET", "HEAD", "POST", "DELETE", "PATCH", "PUT", "OPTIONS"))


class Histogram:
    """Counts values by size; one thread observes, any may look.

    Args:
        bounds: the upper bounds of its buckets, ascending; one more holds what is larger.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.sum = 0.0
        self._counts = [0] * (len(self.bounds) + 1)

    def observe(self, value: float) -> None:
        """Count a value; a clock that went back counts as 0."""
        value = max(0.0, value)
        self._counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def cumulative(self) -> list[int]:
        """Return for each bound how many values are not above it, and last how many there are."""
        return list(accumulate(self._counts))


@dataclass
class Tally:
    """Everything since the host's start."""

    ended: Counter[TaskState] = field(default_factory=lambda: Counter(dict.fromkeys(FINAL, 0)))
    wait_seconds: Histogram = field(default_factory=lambda: Histogram(SLOW))
    run_seconds: Histogram = field(default_factory=lambda: Histogram(SLOW))
    #: By node.
    link_losses: Counter[str] = field(default_factory=Counter[str])
    #: By handler, method and status.
    requests: Counter[tuple[str, str, int]] = field(default_factory=Counter[tuple[str, str, int]])
    request_seconds: Histogram = field(default_factory=lambda: Histogram(QUICK))
    #: Answers without end that are being given, and those that nobody read.
    streams: int = 0
    stalled: int = 0
    log_bytes: int = 0

    def answered(self, handler: str, method: str, status: int) -> None:
        """Count an answer; askers may make up methods, so that unknown ones are all `other`."""
        known = method if method in _METHODS else "other"
        self.requests[handler, known, status] += 1

    def moved(self, before: TaskState, record: TaskRecord) -> None:
        """Take note that a task came from the state `before` to that of `record`."""
        if record.status is before:
            return
        if record.status is TaskState.RUNNING and before is not TaskState.LOST:
            self._note_start(record)
        elif record.is_final:
            if before is TaskState.ASSIGNING and record.started_at is not None:
                # It was over so soon that its start was told with its end.
                self._note_start(record)
            self.ended[record.status] += 1
            if record.started_at is not None and record.completed_at is not None:
                self.run_seconds.observe(record.completed_at - record.started_at)

    def _note_start(self, record: TaskRecord) -> None:
        if record.started_at is not None:
            self.wait_seconds.observe(record.started_at - record.origin.submitted_at)
