"""Connections that have not shown a token yet: there are only so many, and the oldest give way.

Whoever has a token is never among them for long, so that thousands of silent connections keep
neither a client nor a runner out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

#: So many strangers may be connected at a time.
STRANGERS = 512


class Strangers:
    """The connections of those who are not known yet, the oldest first."""

    def __init__(self, limit: int = STRANGERS) -> None:
        self._limit = limit
        self._closing: dict[Hashable, Callable[[], object]] = {}

    def __len__(self) -> int:
        return len(self._closing)

    def add(self, connection: Hashable, close: Callable[[], object]) -> None:
        """Take note of a connection; `close` ends it, should it have to give way."""
        self._closing[connection] = close
        if len(self._closing) > self._limit:
            oldest = next(iter(self._closing))
            self._closing.pop(oldest)()

    def forget(self, connection: Hashable) -> None:
        """Take a connection off: it has shown a token, or it is gone."""
        self._closing.pop(connection, None)
