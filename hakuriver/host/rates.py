"""How often somebody may ask: a bucket of tokens for each, which fills at a steady rate. Pure."""

from __future__ import annotations

from collections import OrderedDict

#: Of so many askers at most is anything remembered: the one who was away longest goes first.
_REMEMBERED = 4096


class Rate:
    """Lets each asker ask `burst` times at once, and from then on `per_second` times a second."""

    def __init__(self, *, per_second: float, burst: float) -> None:
        self._per_second = per_second
        self._burst = burst
        #: What each may still ask at once, and when (monotonic seconds) that was so.
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, asker: str, now: float) -> float:
        """Note that `asker` asks at `now`; return for how many seconds he must wait, 0 for not.

        Who must wait has not asked: asking again too early costs nothing.
        """
        left, since = self._left.get(asker, (self._burst, now))
        left = min(self._burst, left + (now - since) * self._per_second)
        allowed = left >= 1
        self._left[asker] = (left - allowed, now)
        self._left.move_to_end(asker)
        while len(self._left) > _REMEMBERED:
            self._left.popitem(last=False)
        return 0.0 if allowed else (1 - left) / self._per_second
