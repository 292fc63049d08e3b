"""Waking those who wait for one thing to change, such as a task's state or a node's link."""

from __future__ import annotations

import asyncio
from typing import Generic, TypeVar

K = TypeVar("K")


class Pulse(Generic[K]):
    """Events by key, made when somebody waits and gone once they fired."""

    def __init__(self) -> None:
        self._events: dict[K, asyncio.Event] = {}

    def fire(self, key: K) -> None:
        """Wake all who wait for `key`."""
        event = self._events.pop(key, None)
        if event is not None:
            event.set()

    def next(self, key: K) -> asyncio.Event:
        """Return an event that the next `fire` of `key` sets.

        Take it before looking at the state, and wait on it after: then no change is missed.
        """
        return self._events.setdefault(key, asyncio.Event())
