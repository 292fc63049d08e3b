"""The live state: nodes and unfinished tasks, in one place, kept in step with the store.

A change goes to the store first and is made here when it is on disk; then followers see it, the
scheduler decides anew, and runners get their messages. What runners say is believed of their own
tasks alone.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

import msgspec

from hakuriver.errors import Conflict, NotFound, StoreError
from hakuriver.host.feed import Feed
from hakuriver.host.nodes import Nodes
from hakuriver.host.pulse import Pulse
from hakuriver.host.rooms import Assignment, Demand
from hakuriver.host.scheduler import Scheduler
from hakuriver.host.store import Store, changes, queries
from hakuriver.host.tally import Tally
from hakuriver.model.ids import Snowflakes
from hakuriver.model.messages import Acknowledge, Finished, Kill, Launch, Measured, Started
from hakuriver.model.needs import needs_of
from hakuriver.model.targets import Target
from hakuriver.model.tasks import FINAL, TaskState
from hakuriver.model.views import Event, TaskView

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable, Mapping, Sequence

    from hakuriver.host.records import Request, TaskRecord
    from hakuriver.model.tasks import Placement, TaskSpec

logger = logging.getLogger(__name__)

# Above this a reader starts from a snapshot instead.
_REPLAY_LIMIT = 500
# So long the host waits before it tries a store again that could not be written, in seconds.
_STORE_PAUSE = 1.0


class Cluster:
    """Nodes, unfinished tasks, queue and accounting. Belongs to one event loop."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.scheduler = Scheduler()
        self.tasks: dict[int, TaskRecord] = {}
        # Tasks that are queued already, and on their way to the disk.
        self._coming: dict[int, TaskRecord] = {}
        self.feed = Feed(self._replay, rev=store.rev)
        self.moved: Pulse[int] = Pulse()
        self.tally = Tally()
        self.nodes = Nodes(store, self.scheduler, self.feed)
        self.ids = Snowflakes(lambda: time.time_ns() // 1_000_000, last=store.last_id)
        self._running: set[asyncio.Task[None]] = set()

    async def load(self) -> None:
        """Take up nodes and unfinished tasks from the store, as after a restart."""
        await self.nodes.load()
        for record in await self.store.read(queries.unfinished):
            self.tasks[record.id] = record
            if record.status is TaskState.PENDING:
                self.scheduler.enqueue(record.id, demand_of(record))
            else:
                self._hold(record)

    async def close(self) -> None:
        """Let the runners go and wait for what is under way."""
        for node in self.nodes:
            if node.link is not None:
                node.link.disconnect("the host stops")
        while self._running:
            await asyncio.wait(self._running)

    def spawn(self, work: Coroutine[None, None, None]) -> None:
        """Run `work` beside the caller; it is kept until it ends."""
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, StoreError):
            # The store has said more.
            logger.warning("What was to be done beside failed: %s", error)
        elif error is not None:
            logger.error("Work in the background failed", exc_info=error)

    # -- tasks: what clients ask ------------------------------------------------------------

    def add(
        self,
        records: Sequence[TaskRecord],
        decided: Mapping[int, Assignment],
        script: bytes | None,
        request: Request | None = None,
    ) -> Coroutine[None, None, None]:
        """Take in the tasks of one submission; when the returned has run, they are on disk.

        They are in the scheduler's queue, but for those that it has `decided` on already: these
        are written as assigning, one commit less on their way.
        """
        self._coming.update({record.id: record for record in records})
        # Revs are given in the order of the writes: followers take a smaller one for an old one.
        records = [
            msgspec.structs.replace(
                _assigned(record, decided.get(record.id)), rev=self.store.next_rev()
            )
            for record in records
        ]
        written = self.store.write(changes.insert_batch, records, script, request)
        return self._added(records, written, script)

    async def _added(
        self, records: Sequence[TaskRecord], written: asyncio.Future[None], script: bytes | None
    ) -> None:
        try:
            await written
        except BaseException:
            for record in records:
                self.scheduler.remove(record.id)
            self.schedule()
            raise
        finally:
            for record in records:
                del self._coming[record.id]
        for record in records:
            self._replace(record)
            if record.status is TaskState.ASSIGNING:
                self._send_launch(launch_of(record, script))

    async def get(self, task_id: int) -> TaskRecord:
        """Return a task; raise `NotFound`."""
        record = self.tasks.get(task_id) or await self.store.read(queries.task, task_id)
        if record is None:
            raise NotFound(f"no task {task_id}")
        return record

    async def batch(self, batch_id: int) -> tuple[int, list[TaskRecord]]:
        """Return how many tasks a batch has, and those that may still run; raise `NotFound`."""
        count, records = await self.store.read(queries.batch, batch_id)
        if not count:
            raise NotFound(f"no batch {batch_id}")
        return count, [self.tasks.get(record.id, record) for record in records]

    async def kill(self, task_id: int) -> None:
        """See to it that a task ends, or never runs.

        Raises:
            NotFound: there is no such task.
            Conflict: it has ended already.
        """
        record = await self.get(task_id)
        if record.status is TaskState.PENDING:
            killed = await self.change(
                record,
                TaskState.KILLED,
                only_from=TaskState.PENDING,
                reason="killed before it started",
                completed_at=time.time(),
            )
            if killed is not None:
                self.schedule()
                return
        rev = self.store.next_rev()
        if not await self.store.write(changes.request_kill, task_id, rev):
            raise Conflict(f"task {task_id} is already {(await self.get(task_id)).status}")
        present = self.tasks.get(task_id, record)
        asked = msgspec.structs.replace(present, kill_requested=True, rev=rev)
        self._replace(asked)
        if not asked.is_final:
            # Of a lost one the node tells first: what it does not know, it would say never began.
            self.nodes.send(asked.node, Kill(task_id=task_id))

    def view(self, record: TaskRecord) -> TaskView:
        """Return what clients see, with what a queued task waits for."""
        live = self.tasks.get(record.id)
        if live is not None and record.usage is None:
            # What is measured of a running task is not written down each time.
            record = msgspec.structs.replace(record, usage=live.usage)
        if record.status is not TaskState.PENDING:
            return record.to_view()
        return record.to_view(
            queue_position=self.scheduler.position(record.id),
            waits_for=self.scheduler.waits_for(record.id),
        )

    # -- tasks: what runners tell -----------------------------------------------------------

    async def started(self, node: str, message: Started) -> None:
        """Take in that a task runs. A task believed lost comes back by it."""
        record = await self._its_own(node, message.task_id)
        if record is None:
            return
        changed = await self.change(
            record,
            TaskState.RUNNING,
            of_node=node,
            started_at=message.started_at,
            completed_at=None,
            reason=None,
            logs_removed=False,
            stdout_path=message.stdout_path,
            stderr_path=message.stderr_path,
            unit=message.unit,
        )
        if changed is not None and record.status is TaskState.LOST:
            await self._come_back(changed)

    def measured(self, node: str, message: Measured) -> None:
        """Keep in mind what a running task has used so far; its end brings the rest."""
        record = self.tasks.get(message.task_id)
        if record is not None and record.node == node:
            self.tasks[record.id] = msgspec.structs.replace(record, usage=message.usage)

    async def _come_back(self, record: TaskRecord) -> None:
        """Account a task that was believed lost, and repeat a kill that came meanwhile."""
        self._hold(record)
        stored = await self.store.read(queries.task, record.id)
        present = self.tasks.get(record.id)
        if present is not None and stored is not None and stored.kill_requested:
            self.tasks[record.id] = msgspec.structs.replace(present, kill_requested=True)
            self.nodes.send(record.node, Kill(task_id=record.id))

    async def finished(self, node: str, message: Finished) -> None:
        """Take in how a task ended, and acknowledge it once that is on disk."""
        if message.exit.status not in FINAL:
            logger.warning("%s told a task's end as %s", node, message.exit.status)
            return
        record = await self._its_own(node, message.task_id)
        if record is None:
            return
        changed = self.change(
            record,
            message.exit.status,
            of_node=node,
            exit_code=message.exit.exit_code,
            reason=message.exit.reason,
            completed_at=message.exit.completed_at,
            usage=message.exit.usage,
        )
        # The process is gone, whatever the disk says: its successor is assigned by the same fsync.
        self.scheduler.release(record.id)
        self.schedule()
        if await changed is not None or (await self.get(record.id)).is_final:
            self.nodes.send(node, Acknowledge(task_id=record.id))

    async def _its_own(self, node: str, task_id: int) -> TaskRecord | None:
        """Return a task of which `node` may tell something, None for another's or nobody's."""
        record = self.tasks.get(task_id) or await self.store.read(queries.task, task_id)
        if record is None or record.node != node:
            logger.warning("%s tells of task %s, which is not its own", node, task_id)
            return None
        return record

    async def adopt(self, record: TaskRecord, script: bytes | None) -> None:
        """Take in a task that only its node knew."""
        place = record.placement
        self.ids.observe(max(record.id, place.batch_id, place.batch))
        if await self.store.write(changes.adopt, record, script):
            logger.info("Adopted task %s from %s", record.id, record.node)
            if not record.is_final:
                self._hold(record)
            self._replace(record)

    async def claim(self, record: TaskRecord, node: str, placement: Placement) -> None:
        """Take in that a task, which waits here, was given to `node`: the store is an old copy."""
        if self.scheduler.position(record.id) is None:
            return  # it is on its way to another node already
        self.scheduler.remove(record.id)
        claimed = await self.change(
            record,
            TaskState.ASSIGNING,
            only_from=TaskState.PENDING,
            node=node,
            placement=msgspec.structs.replace(record.placement, cpus=placement.cpus),
        )
        if claimed is not None:
            self._hold(claimed)

    async def end(self, record: TaskRecord, to: TaskState, reason: str) -> None:
        """End a task by the host's own judgement, if its state still is the one in `record`."""
        ended = await self.change(
            record, to, only_from=record.status, reason=reason, completed_at=time.time()
        )
        if ended is not None:
            self.schedule()

    def launch(self, record: TaskRecord) -> None:
        """Send an assigned task to its node; a repeated one is recognised there."""
        self.spawn(self._launch(record))

    # -- inside -----------------------------------------------------------------------------

    def change(
        self,
        record: TaskRecord,
        to: TaskState,
        *,
        only_from: TaskState | None = None,
        of_node: str | None = None,
        **fields: Any,
    ) -> Coroutine[None, None, TaskRecord | None]:
        """Enter a state if that is legal, and return the new record, or None.

        It is queued for the disk now, before anything is awaited; see `changes.transition` for
        the conditions. `fields` are those of the record that change too.
        """
        rev = self.store.next_rev()
        written = self.store.write(
            changes.transition,
            record,
            to,
            rev,
            only_from=only_from,
            of_node=of_node,
            **changes.columns(fields),
        )
        return self._changed(record, written, {**fields, "status": to, "rev": rev})

    async def _changed(
        self, record: TaskRecord, written: asyncio.Future[bool], fields: Mapping[str, Any]
    ) -> TaskRecord | None:
        if not await written:
            return None
        # What was written before this has been taken in by now.
        present = self.tasks.get(record.id, record)
        changed = msgspec.structs.replace(present, **fields)
        self.tally.moved(present.status, changed)
        self._replace(changed)
        return changed

    def schedule(self) -> None:
        """Let the scheduler decide, and carry its decisions out."""
        self.carry_out(self.scheduler.decide())

    def carry_out(self, decisions: Iterable[Assignment]) -> None:
        """Have what the scheduler decided written, and then sent to the nodes."""
        for decision in decisions:
            record = self.tasks.get(decision.task_id) or self._coming[decision.task_id]
            assigned = _assigned(record, decision)
            changed = self.change(
                record,
                TaskState.ASSIGNING,
                node=assigned.node,
                placement=assigned.placement,
            )
            self.spawn(self._assign(record, changed))

    async def _assign(
        self, record: TaskRecord, changed: Coroutine[None, None, TaskRecord | None]
    ) -> None:
        try:
            assigned = await changed
        except StoreError:
            present = self.tasks.get(record.id)
            if present is not None and present.status is TaskState.PENDING:
                self.scheduler.put_back(record.id, demand_of(record))
            else:
                self.scheduler.remove(record.id)
            await asyncio.sleep(_STORE_PAUSE)
            self.schedule()
            return
        if assigned is None:
            # It was killed while the decision was on its way.
            self.scheduler.remove(record.id)
            self.schedule()
            return
        await self._launch(assigned)

    async def launch_message(self, record: TaskRecord) -> Launch:
        """Return the message that starts a task, with its script from the store."""
        script = None
        if not record.spec.command:
            script = await self.store.read(queries.script_of, record.placement.batch_id)
        return launch_of(record, script)

    async def _launch(self, record: TaskRecord) -> None:
        self._send_launch(await self.launch_message(record))

    def _send_launch(self, launch: Launch) -> None:
        record = self.tasks.get(launch.task_id)
        # A node that is linked but not online yet gets it at the end of its exchange.
        link = None if record is None else self.nodes.online_link(record.node)
        if link is not None:
            link.send(launch)

    def _hold(self, record: TaskRecord) -> None:
        self.scheduler.hold(record.id, record.node or "", demand_of(record), record.placement.cpus)

    def _replace(self, record: TaskRecord) -> None:
        """Let `record` be the task's present state, and tell everybody."""
        if record.is_final:
            self.tasks.pop(record.id, None)
            self.scheduler.remove(record.id)
        else:
            self.tasks[record.id] = record
        self.feed.publish(Event(rev=record.rev, task=self.view(record)))
        self.moved.fire(record.id)

    async def _replay(self, after: int) -> list[Event] | None:
        # What is newer comes through the ring, after all that is older.
        reached = self.feed.rev
        nodes = [node for node in self.nodes.views() if after < node.rev <= reached]
        records = await self.store.read(queries.changed_tasks, after, reached, _REPLAY_LIMIT)
        # Who knows nothing yet need not be told what is gone.
        if len(records) == _REPLAY_LIMIT or 0 < after < self.store.rev_floor:
            return None
        events = [Event(rev=record.rev, task=self.view(record)) for record in records]
        events += [Event(rev=node.rev, node=node) for node in nodes]
        return sorted(events, key=lambda event: event.rev)


def demand_of(record: TaskRecord) -> Demand:
    """Return what a task needs of the scheduler."""
    asked = record.node if record.origin.targeted else None
    target = None if asked is None else Target(asked, record.placement.numa_node)
    return demand_for(record.spec, target)


def demand_for(spec: TaskSpec, target: Target | None) -> Demand:
    """Return what a task would need of the scheduler; no target means anywhere."""
    needs = needs_of(spec, None if target is None else target.numa)
    return Demand(spec.required_cores, spec.required_memory_bytes or 0, target, needs)


def launch_of(record: TaskRecord, script: bytes | None) -> Launch:
    """Return the message that starts a task."""
    spec = msgspec.structs.replace(record.spec, script=script)
    return Launch(task_id=record.id, spec=spec, placement=record.placement, origin=record.origin)


def _assigned(record: TaskRecord, decision: Assignment | None) -> TaskRecord:
    if decision is None:
        return record
    return msgspec.structs.replace(
        record,
        status=TaskState.ASSIGNING,
        node=decision.node,
        placement=msgspec.structs.replace(record.placement, cpus=decision.cpus),
    )
