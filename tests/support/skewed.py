"""Runs ``hakuriver`` with a wall clock that is wrong by what a file says, in seconds.

The file's path is in ``SKEW_FILE``; it is read anew at every look at the clock, so that the clock
jumps while the program runs. Everything else is the program as it is.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

_FILE = Path(os.environ["SKEW_FILE"])
_time, _time_ns = time.time, time.time_ns


def _skew() -> int:
    try:
        return int(_FILE.read_text("ascii") or 0)
    except FileNotFoundError:
        return 0


def _skewed() -> float:
    return _time() + _skew()


def _skewed_ns() -> int:
    return _time_ns() + _skew() * 10**9


if __name__ == "__main__":
    time.time, time.time_ns = _skewed, _skewed_ns
    from hakuriver.cli.umbrella import main

    sys.exit(main())
