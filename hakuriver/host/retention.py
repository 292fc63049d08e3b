"""Removing what ended long ago: first the logs, on the nodes that have them, then the rows.

A log is removed by its own node, on the host's word, so that none of a task that still runs can
ever be; a node that is offline hears of it when it is back.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from typing import TYPE_CHECKING

from hakuriver.errors import StoreError
from hakuriver.host.store import changes, queries
from hakuriver.model.messages import Discard

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hakuriver.config import Retention
    from hakuriver.host.cluster import Cluster

logger = logging.getLogger(__name__)

# Looks this often at most, in seconds, and more often only where less than a day is kept.
_HOUR = 3600.0
_SHORTEST = 1.0
_FIRST = 60.0
_DAY = 86400.0
# So many tasks at a time: one message to a node, one short transaction.
_ROUND = 1000


async def run(cluster: Cluster, retention: Retention) -> None:
    """Remove what is older than `retention` allows, for as long as the host lives."""
    if not retention.log_days:
        return
    pause = min(_HOUR, max(_SHORTEST, retention.log_days * _DAY / 24))
    # Soon for the first time, for hosts that do not live long, but after their nodes have come.
    await asyncio.sleep(min(pause, _FIRST))
    while True:
        try:
            await sweep(cluster, retention, now=time.time())
        except StoreError as error:
            logger.warning("Nothing old was removed: %s", error)
        except Exception:
            logger.exception("Removing what is old failed; the next look is to come")
        await asyncio.sleep(pause)


async def sweep(cluster: Cluster, retention: Retention, *, now: float) -> None:
    """Ask for the removal of old logs, and delete old rows whose logs have gone."""
    await _discard_logs(cluster, now - retention.log_days * _DAY)
    if retention.keep_tasks_days:
        await _delete_tasks(cluster, now - retention.keep_tasks_days * _DAY)


async def _discard_logs(cluster: Cluster, before: float) -> None:
    away = [node.record.name for node in cluster.nodes if not node.online]
    since = 0.0
    while True:
        found = await cluster.store.read(
            queries.old_logs, since=since, before=before, away=away, limit=_ROUND
        )
        by_node: dict[str | None, list[int]] = defaultdict(list)
        for task_id, node, completed_at in found:
            by_node[node].append(task_id)
            since = completed_at
        for node, task_ids in by_node.items():
            link = cluster.nodes.online_link(node)
            if link is not None:
                link.send(Discard(task_ids=tuple(task_ids)))
            elif cluster.nodes.find(node) is None:
                # Those of nodes that nobody knows any more lie where nobody can remove them.
                await discarded(cluster, node, task_ids)
        if len(found) < _ROUND:
            return


async def _delete_tasks(cluster: Cluster, before: float) -> None:
    while old := await cluster.store.read(queries.old_tasks, before, _ROUND):
        cluster.store.raise_floor(await cluster.store.write(changes.delete_tasks, old))
        logger.info("Removed %d tasks that ended long ago", len(old))


async def discarded(cluster: Cluster, node: str | None, task_ids: Sequence[int]) -> None:
    """Take in that nothing is left on `node` of these tasks of its own."""
    await cluster.store.write(changes.mark_logs_removed, task_ids, node)
