"""Task and batch ids: 64-bit snowflakes, sortable by the time they were given.

Layout: milliseconds since 2025-01-01 UTC << 22 | instance << 12 | sequence. In JSON they are
strings, since they exceed 2^53.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from hakuriver.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import Callable

EPOCH_MS = 1_735_689_600_000
_SEQUENCES = 1 << 12
_INSTANCES = 1 << 10
_MAX_ID = (1 << 63) - 1
_A_DAY = 86_400_000
_A_YEAR = 366 * _A_DAY
#: An id as it stands in paths and queries.
IdText = Annotated[
    str, Meta(pattern="^[0-9]{1,19}$", description="An id: a decimal number of at most 19 digits.")
]
_DIGITS = re.compile(r"[0-9]{1,19}\Z", re.ASCII)


class Snowflakes:
    """Gives distinct, ever larger ids.

    Args:
        clock_ms: milliseconds since the Unix epoch; it may jump back, the ids do not.
        last: the largest id ever given, which the store knows after a restart.
        instance: 0 to 1023, for a database that several hosts would feed.
    """

    def __init__(self, clock_ms: Callable[[], int], *, last: int = 0, instance: int = 0) -> None:
        if not 0 <= instance < _INSTANCES:
            raise ValueError(f"instance {instance} is not between 0 and {_INSTANCES - 1}")
        self._clock_ms = clock_ms
        self._instance = instance
        self._millisecond = last >> 22
        # Whatever sequence `last` bore: its whole millisecond counts as used.
        self._sequence = _SEQUENCES - 1 if last else -1

    def next(self) -> int:
        """Return an id larger than every one before; borrow from the future if need be."""
        now = self._clock_ms() - EPOCH_MS
        if now > self._millisecond:
            self._millisecond, self._sequence = now, 0
        elif self._sequence + 1 < _SEQUENCES:
            self._sequence += 1
        else:
            self._millisecond, self._sequence = self._millisecond + 1, 0
        return self._millisecond << 22 | self._instance << 12 | self._sequence

    def could_be(self, taken: int) -> bool:
        """Whether an id may have been given, by whatever clock; not one of a far future.

        After such a one a restarted host could give no ids any more.
        """
        return taken >> 22 <= self._clock_ms() - EPOCH_MS + _A_YEAR

    def observe(self, taken: int) -> None:
        """Give larger ids than `taken` from now on; one of a far future is let be."""
        millisecond = taken >> 22
        if millisecond <= self._clock_ms() - EPOCH_MS + _A_DAY and millisecond >= self._millisecond:
            self._millisecond, self._sequence = millisecond, _SEQUENCES - 1


def parse_id(text: str, what: str = "task") -> int:
    """Return the id in `text`; raise `NotFound`, since nothing can bear another spelling."""
    if not _DIGITS.match(text) or int(text) > _MAX_ID:
        raise NotFound(f"no {what} {text[:40]!r} (ids are decimal numbers)")
    return int(text)
