"""What is told of the combinations of a sweep while it runs, and when one has ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Stream: TypeAlias = Literal["stdout", "stderr"]
STREAMS: tuple[Stream, Stream] = ("stdout", "stderr")
#: So many characters of the end of a run's output are kept.
MAX_TAIL = 1000


@dataclass(frozen=True, slots=True)
class Started:
    """A combination has been started; `attempt` counts from 1."""

    index: int
    attempt: int


@dataclass(frozen=True, slots=True)
class Output:
    """Whole lines that a combination has written, each with its newline."""

    index: int
    stream: Stream
    lines: bytes


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run of a combination ended. Times are in seconds, `ended` since the epoch.

    `exit_code` is the program's own, -N after signal N, 127 when it was not found, and None when
    it never ran; `reason` says more where there is more to say. `tail` is the end of its standard
    output, `value` what a function returned. With `again` it is tried once more.
    """

    index: int
    exit_code: int | None
    seconds: float
    ended: float
    attempt: int = 1
    tail: str = ""
    reason: str = ""
    value: object = None
    task_id: str = ""
    target: str = ""
    again: bool = False

    @property
    def ok(self) -> bool:
        """Whether it did what it should."""
        return self.exit_code == 0

    @property
    def last_line(self) -> str:
        """The last line of its standard output that is not blank."""
        lines = [line for line in self.tail.splitlines() if line.strip()]
        return lines[-1].strip() if lines else ""


Event: TypeAlias = Started | Output | Ended


def tail_of(data: bytes) -> str:
    """Return the end of `data` as text: at most `MAX_TAIL` characters."""
    return data.decode("utf-8", "replace").rstrip()[-MAX_TAIL:]
