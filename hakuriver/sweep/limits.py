"""How a sweep is run, wherever: the options that both ways share, checked once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from hakuriver.errors import InvalidRequest
from hakuriver.model.quantities import parse_duration

_GRACE = 5.0


@dataclass(frozen=True, slots=True)
class Limits:
    """How a sweep is run. Times are in seconds.

    `jobs` run at once. A run that fails is tried `retries` times more; one that takes longer than
    `timeout` is ended with its whole tree, by SIGTERM and after `grace` by SIGKILL. After
    `max_failures` no more is started and what runs is ended. With `out_dir` each run writes into
    files of its own there, ``7.out`` and ``7.err``.
    """

    jobs: int = 1
    retries: int = 0
    timeout: float | None = None
    grace: float = _GRACE
    max_failures: int | None = None
    out_dir: Path | None = None


class LimitOptions(TypedDict, total=False):
    """`Limits` as keyword options; with text for a duration (``"90s"``) or a folder."""

    jobs: int
    retries: int
    timeout: float | str | None
    grace: float
    max_failures: int | None
    out_dir: str | Path | None


def make_limits(options: LimitOptions) -> Limits:
    """Return checked limits; raise `InvalidRequest` for one that makes no sense."""
    timeout, out_dir = options.get("timeout"), options.get("out_dir")
    limits = Limits(
        jobs=options.get("jobs", 1),
        retries=options.get("retries", 0),
        timeout=parse_duration(timeout) if isinstance(timeout, str) else timeout,
        grace=options.get("grace", _GRACE),
        max_failures=options.get("max_failures"),
        out_dir=None if out_dir is None else Path(out_dir),
    )
    for name in ("jobs", "max_failures"):
        if (1 if getattr(limits, name) is None else getattr(limits, name)) < 1:
            raise InvalidRequest(name, "is less than 1")
    if limits.retries < 0 or (limits.timeout is not None and limits.timeout <= 0):
        raise InvalidRequest("retries or timeout", "is less than there can be")
    return limits
