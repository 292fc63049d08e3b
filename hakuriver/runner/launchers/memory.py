"""How much memory a process tree holds, and when to look at it again.

Needs the standard library alone: the keeper loads it. What counts is what a control group would
hold against the tree and could not drop: anonymous and shared memory, and what of them is
swapped out; no pages of files. Pages that processes share count once.
"""

from __future__ import annotations

import math
import os
import time

from hakuriver.runner.launchers.processes import pids_below, read_proc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

#: The fastest growth that the pace of looks reckons with, in bytes a second.
_GROWTH = 8 << 30
_SOONEST = 0.001
_LATEST = 0.5
#: A tree that does not grow is looked at this seldom at least, however near the limit.
_CALMEST = 0.05
#: Looking takes at most one part in so many of one CPU; a larger one near the limit.
_SHARE = 10
_NEAR_SHARE = 3
_NEAR = 0.8
#: With several processes, growth by this part of the limit is worth an exact look.
_NEWS = 0.02
#: A process that holds less than this part of what it held before has given up shared pages.
_STAYED = 0.95
_TRIES = 5

_BOUND = (b"RssAnon:", b"RssShmem:", b"VmSwap:")
_EXACT = (b"Pss_Anon:", b"Pss_Shmem:", b"SwapPss:")


def bound_of(pid: int) -> int:
    """Return an upper bound of what `pid` holds, in bytes: shared pages count whole. Quick."""
    return _sum(f"/proc/{pid}/status", _BOUND) or 0


def exact_of(pid: int) -> int:
    """Return what `pid` holds, in bytes: its part of shared pages. Takes long for much memory."""
    size = _sum(f"/proc/{pid}/smaps_rollup", _EXACT)
    return bound_of(pid) if size is None else size


def can_measure() -> bool:
    """Whether the kernel tells what is needed."""
    return _sum(f"/proc/{os.getpid()}/status", _BOUND) is not None


def _sum(path: str, names: tuple[bytes, ...]) -> int | None:
    """Return the sum of some fields in bytes, None if the kernel does not tell them."""
    try:
        lines = read_proc(path).split(b"\n")
    except OSError:
        return None
    sizes = [int(line.split()[1]) for line in lines if line.startswith(names)]
    return sum(sizes) << 10 if sizes else None


class Watch:
    """The memory of one task against its `limit` (bytes), looked at the more often the nearer."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        #: The most that was seen, None before the first look.
        self.peak: int | None = None
        #: When to look again, in monotonic seconds.
        self.due = 0.0
        #: By how much the last exact look was below the bound, what that was, and when the next
        #: is not too much.
        self._calm = _SOONEST
        self._shared = 0
        self._bound = -math.inf
        self._affordable = 0.0

    def exceeded(self, roots: Iterable[int]) -> bool:
        """Look at the trees of `roots`; return whether they hold more than the limit."""
        begin = time.monotonic()
        bounds = {pid: bound_of(pid) for pid in pids_below(roots)}
        bound = sum(bounds.values())
        cost = time.monotonic() - begin
        used = self._estimate(bounds, bound, begin)
        now = time.monotonic()
        if bound > self.limit:  # as long as this is so, each look is an exact one
            cost = now - begin
        grew = used > (self.peak or 0) + self.limit * _NEWS
        self._calm = _SOONEST if grew else min(self._calm * 2, _CALMEST)
        self.peak = max(self.peak or 0, used)
        pace = min(max((self.limit - used) / _GROWTH, self._calm), _LATEST)
        share = _NEAR_SHARE if used > self.limit * _NEAR else _SHARE
        self.due = now + max(pace, cost * share)
        return used > self.limit

    def _estimate(self, bounds: dict[int, int], bound: int, now: float) -> int:
        """Return what is held: exactly, if that is needed or is news that can be afforded."""
        if bound <= self.limit:
            # What one process holds is not shared, unless with another task.
            if len(bounds) <= 1:
                return bound
            news = bound > self._bound + self.limit * _NEWS
            if not news or now < self._affordable:
                return max(0, bound - self._shared)
        exact = self._exact(bounds)
        self._bound, self._shared = bound, max(0, bound - exact)
        done = time.monotonic()
        self._affordable = done + (done - now) * _SHARE
        return exact

    def _exact(self, before: dict[int, int]) -> int:
        """Return the exact sum; never too much, whoever ends or executes in the meantime.

        When one that shared pages is gone, the others' parts grow: added up across that moment
        the pages would count twice. So what is over the limit is measured again until nobody
        went, or often enough for the least sum to be believed.
        """
        sums: list[int] = []
        for _ in range(_TRIES):
            sums.append(sum(map(exact_of, before)))
            after = {pid: bound_of(pid) for pid in before}
            stayed = all(after[pid] >= before[pid] * _STAYED for pid in before)
            if stayed or sums[-1] <= self.limit:
                return sums[-1]
            before = after
        return min(sums)
