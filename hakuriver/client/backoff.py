"""Pauses between attempts to reach a host that is gone for a moment."""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING

from hakuriver.errors import HostFault, HostUnreachable, NodeOffline, TooManyRequests

if TYPE_CHECKING:
    from hakuriver.errors import HakuRiverError

_FIRST = 0.05
_LONGEST = 2.0

#: Errors that may pass by themselves: the host or a node restarts, a link is broken, or the host
#: was asked too often.
PASSING = (HostUnreachable, HostFault, NodeOffline, TooManyRequests)

#: Seconds for which a broken stream is opened again and again before its readers are told.
PATIENCE = 600.0


#: Seconds in which a host with a new database should have heard of its tasks from their nodes.
ADOPTION = 30.0


class Backoff:
    """Growing, jittered pauses, and an end of patience after `patience` seconds of failures."""

    def __init__(self, patience: float = PATIENCE) -> None:
        self._patience = patience
        self._pause = _FIRST
        self._failing_since: float | None = None

    def succeeded(self) -> None:
        """Note that the stream gave something: the next failure counts as the first."""
        self._pause = _FIRST
        self._failing_since = None

    async def wait(self, error: HakuRiverError) -> None:
        """Sleep until the next attempt; raise `error` when patience is at its end.

        A host that says when it may be asked again is not asked before, or else once more when
        patience ends.
        """
        now = time.monotonic()
        if self._failing_since is None:
            self._failing_since = now
        left = self._failing_since + self._patience - now
        if left < 0:
            raise error
        # Jitter keeps the clients of a restarted host from coming all at once.
        pause = self._pause * random.uniform(0.5, 1.0)  # noqa: S311
        if isinstance(error, TooManyRequests):
            pause += min(error.retry_after, left)
        await asyncio.sleep(pause)
        self._pause = min(2 * self._pause, _LONGEST)
