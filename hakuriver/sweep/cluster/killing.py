"""Ending the tasks of a sweep on a cluster, of which hakurun leaves those that it has submitted."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from hakuriver.client.sync import Client
from hakuriver.errors import Conflict, InvalidRequest, NotFound
from hakuriver.model.tasks import UNFINISHED
from hakuriver.sweep.journal import Journal

if TYPE_CHECKING:
    from pathlib import Path

    from hakuriver.model.tasks import TaskState
    from hakuriver.sweep.journal import Header

_PAGE = 1000


def kill_sweep(path: Path, header: Header, *, config: str | None = None) -> int:
    """Have all tasks of a sweep ended that have not; return how many that were.

    Nobody can go on with it meanwhile. The sweep itself can be resumed afterwards: what was killed
    counts as failed.

    Raises:
        InvalidRequest: it is a sweep of one machine, which leaves nothing behind.
        Conflict: a hakurun runs it at this moment.
        HakuRiverError: the host cannot be reached, or refuses.
    """
    if not header.cluster:
        raise InvalidRequest("sweep", f"{header.shown} has no tasks on a cluster: it ran here")
    try:
        journal = Journal.open(path)
    except Conflict:
        raise Conflict(
            f"sweep {header.shown} is being run: stop its hakurun first (Ctrl-C there)"
        ) from None
    with journal, Client(config=config) as client:
        return sum(_kill_page(client, header.sweep_id, state) for state in UNFINISHED)


def _kill_page(client: Client, sweep_id: str, state: TaskState) -> int:
    """Have the tasks in one state ended; a sweep has fewer in flight than a page holds."""
    killed = 0
    for view in client.tasks(name=sweep_id, state=state.value, limit=_PAGE):
        # It may have ended at this moment.
        with suppress(Conflict, NotFound):
            client.kill(view.task_id)
            killed += 1
    return killed
