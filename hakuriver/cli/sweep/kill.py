"""``hakurun kill``: end the tasks that a sweep has left on the cluster."""

from __future__ import annotations

import argparse
import shlex
from typing import TYPE_CHECKING

from hakuriver.cli.shared.common import add_common_options, tell
from hakuriver.cli.sweep.arguments import NAME, add_sweep
from hakuriver.sweep.cluster.killing import kill_sweep
from hakuriver.sweep.journal import find_journal

if TYPE_CHECKING:
    from collections.abc import Sequence

DESCRIPTION = "End the tasks of a sweep on the cluster that have not ended."


def kill(arguments: Sequence[str]) -> int:
    """End the tasks of the sweep that is named, else of the newest; return the exit code."""
    parser = argparse.ArgumentParser(f"{NAME} kill", allow_abbrev=False, description=DESCRIPTION)
    add_common_options(parser)
    add_sweep(parser)
    options = parser.parse_args(arguments)
    tell(NAME, killed(options.sweep, options.config))
    return 0


def killed(sweep: str | None, config: str | None = None) -> str:
    """End the tasks of a sweep, the newest if none is named; return what is to be said of that."""
    path, header = find_journal(sweep)
    count = kill_sweep(path, header, config=config)
    if not count:
        return f"sweep {header.shown} has no task on the cluster that has not ended"
    tasks = "1 task is" if count == 1 else f"{count} tasks are"
    wanted = shlex.quote(sweep or header.sweep_id)
    return (
        f"{tasks} being ended of sweep {header.shown}; go on with it by `{NAME} --resume {wanted}`"
    )
