"""An event loop that a test turns by hand: it knows no time but that which it is given.

Threads are run where they are asked for, so that the same steps always lead to the same end.
"""

from __future__ import annotations

import asyncio
import heapq
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class Here(ThreadPoolExecutor):
    """An executor that runs everything at once, in the thread that asks."""

    def __init__(self) -> None:
        super().__init__(1)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - it is the caller's
            future.set_exception(error)
        return future


class HandTurned(asyncio.SelectorEventLoop):
    """The loop; `turn` lets it make so many turns, `quiet` all there are, `advance` time pass."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self.set_default_executor(Here())
        self.troubles: list[str] = []
        self.set_exception_handler(self._trouble)

    def _trouble(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.troubles.append(f"{context.get('message')}: {context.get('exception')!r}")

    def time(self) -> float:
        return self._now

    def turn(self, count: int = 1) -> None:
        for _ in range(count):
            # A loop that is to stop does not wait for its timers.
            self.call_soon(self.stop)
            self.run_forever()

    def within(self, what: Callable[[], None]) -> None:
        """Do something in a turn of its own, where it may start tasks."""
        faults: list[Exception] = []

        def do() -> None:
            try:
                what()
            except Exception as fault:  # noqa: BLE001 - it is the caller's
                faults.append(fault)

        self.call_soon(do)
        self.turn()
        if faults:
            raise faults[0]

    def quiet(self, limit: int = 5000) -> None:
        """Turn until nothing is left to do at this moment."""
        for _ in range(limit):
            self.turn()
            if not self._ready:  # type: ignore[attr-defined]
                return
        raise AssertionError("it does not come to rest")

    def advance(self, seconds: float) -> None:
        """Let time pass; each timer is run at its own moment."""
        until = self._now + seconds
        self.quiet()
        while (moment := self._next_timer()) is not None and moment <= until:
            self._now = max(self._now, moment)
            self.quiet()
        self._now = until

    def _next_timer(self) -> float | None:
        timers = self._scheduled  # type: ignore[attr-defined]
        while timers and timers[0]._cancelled:
            heapq.heappop(timers)._scheduled = False
        return float(timers[0]._when) if timers else None

    def end(self) -> None:
        """Cancel everything and close."""
        for _ in range(3):
            for task in asyncio.all_tasks(self):
                task.cancel()
            self.turn(20)
        self.close()
