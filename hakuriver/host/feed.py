"""The feed of changes: every committed change of a task or node, for whoever follows.

Followers read from one ring of encoded lines, so that a slow one costs nothing but its place: if
the ring has moved on past it, it goes on from the store, and if that is too much, from a reset.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import deque
from operator import itemgetter
from typing import TYPE_CHECKING

import msgspec

from hakuriver.model.views import Event

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

KEEP_ALIVE_SECONDS = 10.0
_RING = 4096
_RING_BYTES = 16 << 20
# So many lines at most go into one piece: whoever reads slowly holds no more in memory.
_PIECE = 256


class Feed:
    """Publishes events in the order of their revs.

    Args:
        replay: reads the events after a rev from the store; None when they are too many.
        rev: the rev that the store has reached.
    """

    def __init__(self, replay: Callable[[int], Awaitable[list[Event] | None]], *, rev: int) -> None:
        self._replay = replay
        self._ring: deque[tuple[int, bytes]] = deque()
        self._bytes = 0
        self._before_ring = self.rev = rev
        self._news = asyncio.Event()

    def publish(self, event: Event) -> None:
        """Hand an event to all followers; its change is on disk."""
        encoded = line(event)
        self.rev = max(self.rev, event.rev)
        self._ring.append((event.rev, encoded))
        self._bytes += len(encoded)
        while len(self._ring) > _RING or (self._bytes > _RING_BYTES and len(self._ring) > 1):
            self._before_ring, dropped = self._ring.popleft()
            self._bytes -= len(dropped)
        self._news.set()
        self._news = asyncio.Event()

    async def follow(self, after: int | None) -> AsyncGenerator[bytes, None]:
        """Yield lines for ever: first the rev the stream starts after, then each change."""
        seen = self.rev if after is None else after
        yield line(Event(rev=seen))
        if seen > self.rev:
            # Written for another database, or one restored from a copy.
            seen = self.rev
            yield line(Event(rev=seen, reset=True))
        while True:
            if seen < self._before_ring:
                seen, lines = await self._catch_up(seen)
            else:
                news = self._news
                seen, lines = self._since(seen)
                if not lines:
                    try:
                        async with asyncio.timeout(KEEP_ALIVE_SECONDS):
                            await news.wait()
                    except TimeoutError:
                        # A sign of life; it bears what this follower has got, not what there is.
                        yield line(Event(rev=seen))
                    continue
            yield b"".join(lines)

    def _since(self, seen: int) -> tuple[int, list[bytes]]:
        """Return the next lines of the ring after a rev, and the rev that they reach.

        Publishing keeps the ring in the order of revs, so that the place of one is found without a
        walk to it: each piece costs what is in it, however far behind the follower is.
        """
        start = bisect_right(self._ring, seen, key=itemgetter(0))
        end = min(start + _PIECE, len(self._ring))
        piece = [self._ring[place] for place in range(start, end)]
        reached = self.rev if end == len(self._ring) else piece[-1][0]
        return reached, [encoded for _, encoded in piece]

    async def _catch_up(self, seen: int) -> tuple[int, list[bytes]]:
        reached = self.rev
        events = await self._replay(seen)
        if events is None:
            return reached, [line(Event(rev=reached, reset=True))]
        return max(reached, seen), [line(event) for event in events]


def line(event: Event) -> bytes:
    """Return an event as one line of NDJSON."""
    return msgspec.json.encode(event) + b"\n"
