"""From a request to tasks: which targets can have one, and why the others cannot."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec

from hakuriver.errors import Conflict, InvalidRequest, SubmissionRefused
from hakuriver.host.cluster import demand_for, demand_of
from hakuriver.host.keys import RequestKey
from hakuriver.host.nodes import closed
from hakuriver.host.records import TaskRecord
from hakuriver.host.store import CLASHES
from hakuriver.model.needs import needs_of, unmet
from hakuriver.model.targets import Target
from hakuriver.model.tasks import Origin, Placement, TaskSpec, TaskState
from hakuriver.model.views import FailedTarget, SubmitReply

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from hakuriver.host.cluster import Cluster
    from hakuriver.host.nodes import Node
    from hakuriver.host.rooms import Assignment
    from hakuriver.model.submission import SubmitRequest


class Submission:
    """One request on its way in.

    Args:
        cluster: where the tasks will run.
        request: what was asked for.
        owner: who asked.
        retry_of: the task that is repeated, if one is.
        key: by what a repetition is known, if it is not the request's own key.
    """

    def __init__(
        self,
        cluster: Cluster,
        request: SubmitRequest,
        owner: str,
        *,
        retry_of: int | None = None,
        key: RequestKey | None = None,
    ) -> None:
        self._cluster = cluster
        self._request = request
        self._owner = owner
        self._retry_of = retry_of
        self._key = key or RequestKey(
            cluster.store, owner, request.idempotency_key, _work_of(request)
        )
        self._failed: list[FailedTarget] = []

    async def submit(self) -> SubmitReply:
        """Create a task for each target that can have one; on return they are on disk.

        A request whose key has been seen is answered as it was then, and creates nothing.

        Raises:
            InvalidRequest: a field is not acceptable.
            SubmissionRefused: no target can have a task; it holds every reason.
            Conflict: the key was used for another request.
        """
        try:
            return await self.begin()
        except SubmissionRefused:
            # It may be the repetition of one that was accepted when there was room.
            before = await self._key.answered_before()
            if before is None:
                raise
            return before

    def begin(self) -> Awaitable[SubmitReply]:
        """Decide all that can be decided now, before anything else can; the rest is waiting."""
        spec = self._request.to_spec()
        accepted = self._accepted(spec)
        records = self._records(spec, accepted)
        for record in records:
            self._cluster.scheduler.enqueue(record.id, demand_of(record))
        decided = {one.task_id: one for one in self._cluster.scheduler.decide()}
        if not self._request.queue:
            records = self._placed(records, decided)
        # Whatever else the scheduler found on this occasion takes its own way.
        own = {record.id for record in records}
        self._cluster.carry_out([one for key, one in decided.items() if key not in own])
        if not records:
            raise self._refused()
        reply = SubmitReply(
            message=f"{len(records)} of {len(records) + len(self._failed)} tasks created",
            task_ids=[str(record.id) for record in records],
            batch_id=str(records[0].placement.batch),
            failed_targets=self._failed,
            joined=self._request.batch_id is not None,
        )
        added = self._cluster.add(records, decided, spec.script, self._key.kept(reply))
        return self._answer(added, reply)

    async def _answer(self, added: Awaitable[None], reply: SubmitReply) -> SubmitReply:
        try:
            await added
        except CLASHES:
            before = await self._key.answered_before()
            if before is None:
                raise Conflict(
                    "what bore this idempotency_key was removed at this moment; send it again"
                ) from None
            return before
        return reply

    # -- targets ----------------------------------------------------------------------------

    def _accepted(self, spec: TaskSpec) -> list[Target | None]:
        """Return the targets that can have a task, and note why the others cannot."""
        targets = self._request.targets
        if targets is not None and not targets:
            raise InvalidRequest("targets", "is empty (leave it out to let the scheduler pick)")
        wanted: list[str | None] = list(targets) if targets is not None else [None]
        accepted: list[Target | None] = []
        # The same target a thousand times is looked at once.
        judged: dict[str | None, tuple[Target | None, str | None]] = {}
        for text in wanted:
            if text not in judged:
                judged[text] = _judge(self._cluster, spec, text)
            target, reason = judged[text]
            if reason is None:
                accepted.append(target)
            else:
                self._failed.append(FailedTarget(text or "any node", reason))
        if not accepted:
            raise self._refused()
        return accepted

    def _placed(
        self, records: Sequence[TaskRecord], decided: dict[int, Assignment]
    ) -> list[TaskRecord]:
        """Return the tasks that start at once; the others, which must not wait, are refused."""
        for record in records:
            if record.id not in decided:
                demand = demand_of(record)
                short = self._cluster.scheduler.shortage(demand)
                self._failed.append(
                    FailedTarget(str(demand.target or "any node"), f"no room now: it {short}")
                )
                self._cluster.scheduler.remove(record.id)
        placed = [record for record in records if record.id in decided]
        return [_numbered(record, index, len(placed)) for index, record in enumerate(placed)]

    def _refused(self) -> SubmissionRefused:
        reasons = list(dict.fromkeys(f"{one.target}: {one.reason}" for one in self._failed))
        return SubmissionRefused(f"no task was created: {'; '.join(reasons)}", self._failed)

    def _records(self, spec: TaskSpec, targets: Sequence[Target | None]) -> list[TaskRecord]:
        cluster, now = self._cluster, time.time()
        batch_id, joined = cluster.ids.next(), self._request.batch_id
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
                    joined_id=None if joined is None else int(joined),
                ),
                origin=Origin(
                    owner=self._owner,
                    submitted_at=now,
                    targeted=target is not None,
                    retry_of=self._retry_of,
                ),
                spec=stored,
                rev=0,
                status=TaskState.PENDING,
                node=None if target is None else target.node,
            )
            for index, target in enumerate(targets)
        ]


def _work_of(request: SubmitRequest) -> dict[str, object]:
    """Return what makes a request another one: not the batch that its tasks are counted in."""
    asked = msgspec.structs.asdict(request)
    del asked["batch_id"]
    return asked


def _numbered(record: TaskRecord, index: int, size: int) -> TaskRecord:
    placement = msgspec.structs.replace(record.placement, batch_index=index, batch_size=size)
    return msgspec.structs.replace(record, placement=placement)


def _judge(cluster: Cluster, spec: TaskSpec, text: str | None) -> tuple[Target | None, str | None]:
    """Return the target and why it cannot have a task, None if it can."""
    try:
        target = None if text is None else Target.parse(text)
    except InvalidRequest as error:
        return None, error.reason
    if not any(cluster.nodes):
        return target, "no node has joined yet (start hakuriver.runner on a machine)"
    impossible = cluster.scheduler.impossible(demand_for(spec, target))
    if impossible is not None:
        return target, impossible
    if target is None:
        return None, _unable_all(cluster, spec)
    node = cluster.nodes.get(target.node)
    return target, _unable(node, spec, target) or _shut(node)


def _unable_all(cluster: Cluster, spec: TaskSpec) -> str | None:
    """Return why no node that takes tasks can run this, None if one can."""
    there = [node for node in cluster.nodes if node.online]
    if not there:
        return "no node is online"
    taking = [node for node in there if not node.record.draining]
    if not taking:
        return "every node that is online is draining"
    lacks = [_unable(node, spec, None) for node in taking]
    return None if None in lacks else lacks[0]


def _shut(node: Node) -> str | None:
    reason = closed(node)
    return None if reason is None else f"{node.record.name} {reason}"


def _unable(node: Node, spec: TaskSpec, target: Target | None) -> str | None:
    """Return why a node cannot enforce what the task asks for, None if it can."""
    needs = needs_of(spec, None if target is None else target.numa)
    reason = unmet(needs, node.record.info.capabilities)
    return None if reason is None else f"{node.record.name} cannot give {reason}"
