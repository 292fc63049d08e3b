"""What a process may have at once, as the kernel limits it."""

from __future__ import annotations

import contextlib
import resource


def lift(*which: int) -> None:
    """Let this process have what its user may, not as little as a shell's default.

    Args:
        which: ``resource.RLIMIT_…`` numbers; where one cannot be raised it stays.
    """
    for one in which:
        _, hard = resource.getrlimit(one)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(one, (hard, hard))
