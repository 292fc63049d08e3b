"""The live state: nodes and unfinished tasks, in one place, kept in step with the store.

A change goes to the store first and is made here when it is on disk; then followers see it, the
scheduler decides anew, and runners get their messages. What runners say is believed of their own
tasks alone.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

import msgspec

from hakuriver.errors import Conflict, NotFound, StoreError
from hakuriver.host.feed import Feed
from hakuriver.host.nodes import Nodes
from hakuriver.host.pulse import Pulse
from hakuriver.host.scheduler import Assignment, Demand, Scheduler
from hakuriver.host.store import Store, queries
from hakuriver.model.ids import Snowflakes
from hakuriver.model.messages import Acknowledge, Finished, Kill, Launch, Started
from hakuriver.model.needs import needs_of
from hakuriver.model.targets import Target
from hakuriver.model.tasks import FINAL, TaskState
from hakuriver.model.views import Event, TaskView

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from hakuriver.host.records import TaskRecord

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
        self.feed = Feed(self._replay, rev=store.rev)
        self.moved: Pulse[int] = Pulse()
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
                self.scheduler.hold(record.id, record.node or "", record.placement.cpus)

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
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("Work in the background failed", exc_info=error)

    # -- tasks: what clients ask ------------------------------------------------------------

    async def add(self, records: Sequence[TaskRecord], script: bytes | None) -> None:
        """Take in the tasks of one submission; on return they are on disk."""
        for record in records:
            self.scheduler.enqueue(record.id, demand_of(record))
        decided = {decision.task_id: decision for decision in self.scheduler.decide()}
        # Those that start at once are written as assigning: one commit less on their way.
        records = [_assigned(record, decided.pop(record.id, None)) for record in records]
        try:
            await self.store.insert(records, script)
        except BaseException:
            for record in records:
                self.scheduler.remove(record.id)
            self.schedule()
            raise
        finally:
            for decision in decided.values():
                self.spawn(self._assign(decision))
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

    async def kill(self, task_id: int) -> None:
        """See to it that a task ends, or never runs.

        Raises:
            NotFound: there is no such task.
            Conflict: it has ended already.
        """
        record = await self.get(task_id)
        if record.status is TaskState.PENDING:
            killed = await self.store.transition(
                task_id,
                TaskState.KILLED,
                only_from=TaskState.PENDING,
                reason="killed before it started",
                completed_at=time.time(),
            )
            if killed is not None:
                self._replace(killed)
                self.schedule()
                return
        asked = await self.store.request_kill(task_id)
        if asked is None:
            raise Conflict(f"task {task_id} is already {(await self.get(task_id)).status}")
        self._replace(asked)
        self.nodes.send(asked.node, Kill(task_id=task_id))

    def view(self, record: TaskRecord) -> TaskView:
        """Return what clients see, with what a queued task waits for."""
        if record.status is not TaskState.PENDING:
            return record.to_view()
        return record.to_view(
            queue_position=self.scheduler.position(record.id),
            waits_for=self.scheduler.waits_for(record.id),
        )

    # -- tasks: what runners tell -----------------------------------------------------------

    async def started(self, node: str, message: Started) -> None:
        """Take in that a task runs. A task believed lost comes back by it."""
        record = await self.store.transition(
            message.task_id,
            TaskState.RUNNING,
            of_node=node,
            started_at=message.started_at,
            completed_at=None,
            reason=None,
            stdout_path=message.stdout_path,
            stderr_path=message.stderr_path,
        )
        if record is not None:
            self.scheduler.hold(record.id, node, record.placement.cpus)
            self._replace(record)

    async def finished(self, node: str, message: Finished) -> None:
        """Take in how a task ended, and acknowledge it once that is on disk."""
        if message.exit.status not in FINAL:
            logger.warning("%s told a task's end as %s", node, message.exit.status)
            return
        record = await self.store.transition(
            message.task_id,
            message.exit.status,
            of_node=node,
            exit_code=message.exit.exit_code,
            reason=message.exit.reason,
            completed_at=message.exit.completed_at,
        )
        if record is not None:
            self._replace(record)
            self.schedule()
        else:
            record = await self.store.read(queries.task, message.task_id)
        if record is not None and record.node == node and record.is_final:
            self.nodes.send(node, Acknowledge(task_id=record.id))
        else:
            logger.warning("%s told the end of task %s, not its own", node, message.task_id)

    async def end(self, record: TaskRecord, to: TaskState, reason: str) -> None:
        """End a task by the host's own judgement, if its state still is the one in `record`."""
        ended = await self.store.transition(
            record.id, to, only_from=record.status, reason=reason, completed_at=time.time()
        )
        if ended is not None:
            self._replace(ended)
            self.schedule()

    def launch(self, record: TaskRecord) -> None:
        """Send an assigned task to its node; a repeated one is recognised there."""
        self.spawn(self._launch(record))

    # -- inside -----------------------------------------------------------------------------

    def schedule(self) -> None:
        """Let the scheduler decide, and carry its decisions out."""
        for decision in self.scheduler.decide():
            self.spawn(self._assign(decision))

    async def _assign(self, decision: Assignment) -> None:
        try:
            record = await self.store.transition(
                decision.task_id, TaskState.ASSIGNING, node=decision.node, cpus=decision.cpus
            )
        except StoreError:
            await self._put_back(decision.task_id)
            return
        if record is None:
            # It was killed while the decision was on its way.
            self.scheduler.remove(decision.task_id)
            self.schedule()
            return
        self._replace(record)
        await self._launch(record)

    async def _put_back(self, task_id: int) -> None:
        """Queue a task anew and try again in a while: the store cannot be written."""
        pending = self.tasks.get(task_id)
        if pending is not None:
            self.scheduler.put_back(task_id, demand_of(pending))
        await asyncio.sleep(_STORE_PAUSE)
        self.schedule()

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
        records = await self.store.read(queries.changed_tasks, after, _REPLAY_LIMIT)
        if len(records) == _REPLAY_LIMIT:
            return None
        events = [Event(rev=record.rev, task=self.view(record)) for record in records]
        events += [
            Event(rev=node.rev, node=node) for node in self.nodes.views() if node.rev > after
        ]
        return sorted(events, key=lambda event: event.rev)


def demand_of(record: TaskRecord) -> Demand:
    """Return what a task needs of the scheduler."""
    target = None if record.node is None else Target(record.node, record.placement.numa_node)
    needs = needs_of(record.spec, record.placement.numa_node)
    return Demand(record.spec.required_cores, target, needs)


def launch_of(record: TaskRecord, script: bytes | None) -> Launch:
    """Return the message that starts a task."""
    spec = msgspec.structs.replace(record.spec, script=script)
    return Launch(task_id=record.id, spec=spec, placement=record.placement)


def _assigned(record: TaskRecord, decision: Assignment | None) -> TaskRecord:
    if decision is None:
        return record
    return msgspec.structs.replace(
        record,
        status=TaskState.ASSIGNING,
        node=decision.node,
        placement=msgspec.structs.replace(record.placement, cpus=decision.cpus),
    )
