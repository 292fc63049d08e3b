"""What the host does when a runner links up, and when one has been silent for too long.

The runner tells every task it knows; the host compares that with its own, and only then lets
tasks start on the node.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from hakuriver.host.store import queries
from hakuriver.model.messages import PROTOCOL, Finished, Kill, Refuse, Started
from hakuriver.model.tasks import TaskState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hakuriver.host.cluster import Cluster
    from hakuriver.host.nodes import Link, Node
    from hakuriver.model.messages import Hello, Known

logger = logging.getLogger(__name__)


def objection(cluster: Cluster, name: str, hello: Hello) -> Refuse | None:
    """Return why a runner is not taken in, None if it is."""
    if hello.protocol != PROTOCOL:
        return Refuse(
            reason=f"the runner speaks protocol {hello.protocol}, the host {PROTOCOL}; install "
            "the same version of hakuriver-jupyter on both",
            final=True,
        )
    if hello.cluster_id not in (None, cluster.store.cluster_id):
        return Refuse(
            reason=f"this runner belongs to another cluster ({hello.cluster_id}), the host is of "
            f"{cluster.store.cluster_id}; give the runner another paths.state_dir to join this one",
            final=True,
        )
    node = cluster.nodes.find(name)
    if node is not None and node.link is not None and node.record.uid != hello.node_uid:
        return Refuse(
            reason=f"another runner is linked as {name!r}; set another runner.name", final=True
        )
    return None


async def reconcile(cluster: Cluster, name: str, link: Link, told: Sequence[Known]) -> None:
    """Bring the host's picture of a node to what its runner told over `link`, then open it."""
    for known in told:
        await _take_in(cluster, name, known)
    ids = {known.task_id for known in told}
    untold = [task for task in cluster.tasks.values() if task.node == name and task.id not in ids]
    for record in untold:
        if not cluster.nodes.is_linked(name, link):
            return
        if record.status is TaskState.RUNNING:
            await cluster.end(record, TaskState.LOST, f"{name} no longer knows this task")
    if not await cluster.nodes.open(name, link):
        return
    for record in list(cluster.tasks.values()):
        if record.node != name or record.status is not TaskState.ASSIGNING or record.id in ids:
            continue
        if record.kill_requested:
            # Its launch may have arrived without being journaled yet: only the runner can tell.
            link.send(Kill(task_id=record.id))
        else:
            cluster.launch(record)
    cluster.schedule()


async def _take_in(cluster: Cluster, name: str, known: Known) -> None:
    record = cluster.tasks.get(known.task_id)
    if record is None:
        record = await cluster.store.read(queries.task, known.task_id)
    if record is None or record.node != name:
        logger.warning("%s tells of task %s, which is not its own", name, known.task_id)
        return
    if known.started_at is not None:
        await cluster.started(
            name,
            Started(
                task_id=known.task_id,
                started_at=known.started_at,
                stdout_path=known.stdout_path,
                stderr_path=known.stderr_path,
            ),
        )
    if known.exit is not None:
        await cluster.finished(name, Finished(task_id=known.task_id, exit=known.exit))
    elif record.kill_requested:
        cluster.nodes.send(name, Kill(task_id=known.task_id))


async def sweep(cluster: Cluster, silence: float) -> None:
    """Break links that have been silent for `silence` seconds, and give up on their tasks.

    An assigning task stays so: whether it started, only its node can tell.
    """
    for node in cluster.nodes:
        if node.link is not None and _is_silent(node, silence):
            node.link.disconnect(f"silent for {silence:g} s")
    for record in list(cluster.tasks.values()):
        if record.status is not TaskState.RUNNING:
            continue
        # Looked up for each: a node may come back while the ends of others are written.
        its = cluster.nodes.find(record.node)
        if its is not None and its.link is None and _is_silent(its, silence):
            reason = f"{record.node} has been silent for {silence:g} s; the node may still tell"
            await cluster.end(record, TaskState.LOST, reason)


def _is_silent(node: Node, silence: float) -> bool:
    return time.monotonic() - node.heard > silence
