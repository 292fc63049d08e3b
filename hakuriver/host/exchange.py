"""What the host does when a runner links up, and when one has been silent for too long.

The runner tells every task it knows; the host compares that with its own, and only then lets
tasks start on the node. What the host does not know, since its database is new or an old copy, it
takes in as the runner tells it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

import msgspec

from hakuriver.host.reconcile import (
    Standing,
    Untold,
    disowned,
    is_same_work,
    must_end,
    refusal_of,
    standing,
    untold,
)
from hakuriver.host.records import TaskRecord
from hakuriver.host.store import queries
from hakuriver.model.messages import Finished, Kill, Refuse, Started
from hakuriver.model.tasks import TaskState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hakuriver.host.cluster import Cluster
    from hakuriver.host.nodes import Link, Node
    from hakuriver.model.messages import Hello, Known
    from hakuriver.model.tasks import Placement

logger = logging.getLogger(__name__)

# So many tasks are compared at a time.
_PORTION = 256


def objection(cluster: Cluster, name: str, hello: Hello) -> Refuse | None:
    """Return why a runner is not taken in, None if it is."""
    refusal = refusal_of(hello.protocol, hello.info.version)
    if refusal is not None:
        return refusal
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
    for portion in range(0, len(told), _PORTION):
        # What is told of one task says nothing of another; together they share their commits.
        some = told[portion : portion + _PORTION]
        await asyncio.gather(*(_take_in(cluster, name, known) for known in some))
    ids = {known.task_id for known in told}
    for record in _others(cluster, name, ids):
        if not cluster.nodes.is_linked(name, link):
            return
        if untold(record) is Untold.LOSE:
            await cluster.end(record, TaskState.LOST, f"{name} no longer knows this task")
    if not await cluster.nodes.open(name, link):
        return
    for record in _others(cluster, name, ids):
        match untold(record):
            case Untold.KILL:
                link.send(Kill(task_id=record.id))
            case Untold.LAUNCH:
                cluster.launch(record)
            case _:
                pass
    cluster.schedule()


def _others(cluster: Cluster, name: str, told: set[int]) -> list[TaskRecord]:
    """Return the unfinished tasks of a node that its runner did not tell of."""
    return [task for task in cluster.tasks.values() if task.node == name and task.id not in told]


async def _take_in(cluster: Cluster, name: str, known: Known) -> None:
    record = cluster.tasks.get(known.task_id)
    if record is None:
        record = await cluster.store.read(queries.task, known.task_id)
    record = await _owned(cluster, name, record, known)
    if record is None:
        logger.warning("%s tells of task %s, which is not its own", name, known.task_id)
        cluster.nodes.send(name, disowned(known))
        return
    if known.started_at is not None:
        await cluster.started(
            name,
            Started(
                task_id=known.task_id,
                started_at=known.started_at,
                stdout_path=known.stdout_path,
                stderr_path=known.stderr_path,
                unit=known.unit,
            ),
        )
    if known.exit is not None:
        await cluster.finished(name, Finished(task_id=known.task_id, exit=known.exit))
    elif must_end(record, known):
        cluster.nodes.send(name, Kill(task_id=known.task_id))


async def _owned(
    cluster: Cluster, name: str, record: TaskRecord | None, known: Known
) -> TaskRecord | None:
    """Return a task that its node tells of, made the node's own if need be; None if it is not."""
    where = standing(record, name)
    # Of a task that is known here, what the runner says of its place proves nothing.
    place = known.placement if record is None else record.placement
    unproven = where in (Standing.UNKNOWN, Standing.WAITING)
    if unproven and not await _is_proven(cluster, known, place):
        return None
    if record is None:
        record = _told(cluster, name, known)
        await cluster.adopt(record, known.spec.script)
    elif where is Standing.WAITING:
        await cluster.claim(record, name, known.placement)
        record = cluster.tasks.get(known.task_id, record)
    return record if record.node == name else None


async def _is_proven(cluster: Cluster, known: Known, place: Placement) -> bool:
    """Whether a runner may speak of a task, at `place`, that this store did not give it."""
    if not all(map(cluster.ids.could_be, (known.task_id, place.batch_id, place.batch))):
        return False
    shared = await cluster.store.read(queries.shared, place.batch_id)
    return shared is None or is_same_work(known.spec, *shared)


def _told(cluster: Cluster, name: str, known: Known) -> TaskRecord:
    """Return a task as its node tells of it: this store is younger than the task."""
    return TaskRecord(
        id=known.task_id,
        placement=known.placement,
        origin=known.origin,
        spec=msgspec.structs.replace(known.spec, script=None),
        rev=cluster.store.next_rev(),
        status=TaskState.ASSIGNING,
        node=name,
    )


async def sweep(cluster: Cluster, silence: float) -> None:
    """Break links that have been silent for `silence` seconds, and give up on their tasks.

    An assigning task stays so: whether it started, only its node can tell.
    """
    for node in cluster.nodes:
        if node.link is not None and _is_silent(node, silence):
            node.link.disconnect(f"silent for {silence:g} s")
    for name in {record.node for record in cluster.tasks.values() if record.node is not None}:
        if cluster.nodes.find(name) is None:
            await _end_all(cluster, name)
    for record in list(cluster.tasks.values()):
        if record.status is not TaskState.RUNNING:
            continue
        # Looked up for each: a node may come back while the ends of others are written.
        its = cluster.nodes.find(record.node)
        if its is not None and its.link is None and _is_silent(its, silence):
            reason = f"{record.node} has been silent for {silence:g} s; the node may still tell"
            await cluster.end(record, TaskState.LOST, reason)


async def forget(cluster: Cluster, name: str) -> None:
    """Remove an offline node; its unfinished tasks end, those that may have started as lost.

    Raises:
        NotFound: there is no such node.
        Conflict: it is online.
    """
    cluster.nodes.check_away(name)
    # Before the node itself goes: a host that dies in between leaves no task without a node.
    await _end_all(cluster, name)
    await cluster.nodes.forget(name)
    # Those that were on their way to it meanwhile.
    await _end_all(cluster, name)


async def _end_all(cluster: Cluster, name: str) -> None:
    """End the unfinished tasks of a node that is gone for good, all in one commit."""
    reason = f"{name} was removed from the cluster"
    lost = f"{reason}; the node may still tell"
    await asyncio.gather(
        *(
            cluster.end(record, TaskState.FAILED, reason)
            if record.status is TaskState.PENDING
            else cluster.end(record, TaskState.LOST, lost)
            for record in list(cluster.tasks.values())
            if record.node == name
        )
    )


def _is_silent(node: Node, silence: float) -> bool:
    return time.monotonic() - node.heard > silence
