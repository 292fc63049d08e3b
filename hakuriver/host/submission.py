"""From a request to tasks: which targets can have one, and why the others cannot."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec

from hakuriver.errors import InvalidRequest, SubmissionRefused
from hakuriver.host.records import TaskRecord
from hakuriver.host.scheduler import Demand
from hakuriver.model.needs import needs_of, unmet
from hakuriver.model.targets import Target
from hakuriver.model.tasks import Placement, TaskSpec, TaskState
from hakuriver.model.views import FailedTarget, SubmitReply

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hakuriver.host.cluster import Cluster
    from hakuriver.host.nodes import Node
    from hakuriver.model.submission import SubmitRequest


async def submit(cluster: Cluster, request: SubmitRequest, owner: str) -> SubmitReply:
    """Create a task for each target that can have one; on return they are on disk.

    Raises:
        InvalidRequest: a field is not acceptable.
        SubmissionRefused: no target can have a task; it holds every reason.
    """
    spec = request.to_spec()
    if request.targets is not None and not request.targets:
        raise InvalidRequest("targets", "is empty (leave it out to let the scheduler pick)")
    targets: list[str | None] = list(request.targets) if request.targets is not None else [None]
    accepted: list[Target | None] = []
    failed: list[FailedTarget] = []
    for text in targets:
        target, reason = _judge(cluster, spec, text)
        if reason is None:
            accepted.append(target)
        else:
            failed.append(FailedTarget(text or "any node", reason))
    if not accepted:
        raise SubmissionRefused(
            "no task was created: "
            + "; ".join(f"{entry.target}: {entry.reason}" for entry in failed),
            failed,
        )
    records = _records(cluster, spec, accepted, owner)
    await cluster.add(records, spec.script)
    return SubmitReply(
        message=f"{len(records)} of {len(targets)} tasks created",
        task_ids=[str(record.id) for record in records],
        batch_id=str(records[0].placement.batch_id),
        failed_targets=failed,
    )


def _judge(cluster: Cluster, spec: TaskSpec, text: str | None) -> tuple[Target | None, str | None]:
    """Return the target and why it cannot have a task, None if it can."""
    try:
        target = None if text is None else Target.parse(text)
    except InvalidRequest as error:
        return None, error.reason
    if not any(cluster.nodes):
        return target, "no node has joined yet (start hakuriver.runner on a machine)"
    impossible = cluster.scheduler.impossible(Demand(spec.required_cores, target))
    if impossible is not None:
        return target, impossible
    if target is None:
        return None, _unable_all(cluster, spec)
    node = cluster.nodes.get(target.node)
    return target, _unable(node, spec, target) or _away(node)


def _unable_all(cluster: Cluster, spec: TaskSpec) -> str | None:
    """Return why no online node can enforce what the task asks for, None if one can."""
    lacks = [_unable(node, spec, None) for node in cluster.nodes if node.online]
    if not lacks:
        return "no node is online"
    return None if None in lacks else lacks[0]


def _away(node: Node) -> str | None:
    return None if node.online else f"{node.record.name} is offline"


def _unable(node: Node, spec: TaskSpec, target: Target | None) -> str | None:
    """Return why a node cannot enforce what the task asks for, None if it can."""
    needs = needs_of(spec, None if target is None else target.numa)
    reason = unmet(needs, node.record.info.capabilities)
    return None if reason is None else f"{node.record.name} cannot give {reason}"


def _records(
    cluster: Cluster, spec: TaskSpec, targets: Sequence[Target | None], owner: str
) -> list[TaskRecord]:
    batch_id = cluster.ids.next()
    # The script goes to the store once, beside the spec.
    stored = msgspec.structs.replace(spec, script=None)
    return [
        TaskRecord(
            id=cluster.ids.next(),
            placement=Placement(
                batch_id=batch_id,
                batch_index=index,
                batch_size=len(targets),
                numa_node=None if target is None else target.numa,
            ),
            spec=stored,
            rev=cluster.store.next_rev(),
            owner=owner,
            status=TaskState.PENDING,
            node=None if target is None else target.node,
            submitted_at=time.time(),
        )
        for index, target in enumerate(targets)
    ]
