"""Waking those who wait for one thing to change, such as a task's state or a node's link."""

from __future__ import annotations

import asyncio
from typing import Generic, TypeVar
from weakref import WeakValueDictionary

K = TypeVar("K")


class Pulse(Generic[K]):
    """Events by key, made when somebody waits and gone once they fired."""

    def __init__(self) -> None:
        # An event lives as long as somebody holds it.
        self._events: WeakValueDictionary[K, asyncio.Event] = WeakValueDictionary()

    def fire(self, key: K) -> None:
        """Wake all who wait for `key`."""
        event = self._events.pop(key, None)
        if event is not None:
            event.set()

    def next(self, key: K) -> asyncio.Event:
        """Return an event that the next `fire` of `key` sets.

        Take it before looking at the state, and wait on it after: then no change is missed.
        """
        event = self._events.get(key) or asyncio.Event()
        self._events[key] = event
        return event


async def either(*events: asyncio.Event, seconds: float | None) -> bool:
    """Wait for the first of `events`; False if none came within `seconds` (None: for ever)."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        done, _ = await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        return bool(done)
    finally:
        for wait in waits:
            wait.cancel()
