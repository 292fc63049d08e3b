"""A cluster in memory, behind the same Protocol as the real one, that tests can break at will."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Unpack

import msgspec

from hakuriver.client.placeholder import pending_views
from hakuriver.errors import Conflict, HakuRiverError, HostUnreachable, NotFound, SubmissionRefused
from hakuriver.model.nodes import Capabilities, NodeStatus, NumaNode
from hakuriver.model.submission import SubmitRequest
from hakuriver.model.tasks import FINAL, TaskState
from hakuriver.model.views import (
    ErrorAnswer,
    Event,
    FailedTarget,
    HealthView,
    KillBatchReply,
    LogEndView,
    LogLine,
    NodeView,
    SubmitAnswer,
    SubmitManyReply,
    SubmitReply,
    TaskList,
    TaskView,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Sequence

    from hakuriver.client.cluster import TaskFilters
    from hakuriver.model.messages import Stream
    from hakuriver.model.submission import RerunRequest

FIRST_ID = 1000


def make_view(task_id: str = "1001", status: str = "pending", **changes: object) -> TaskView:
    """Return a task on node1 as a host would show it."""
    request = SubmitRequest(command="sleep", arguments=["60"], targets=["node1"])
    reply = SubmitReply(message="", task_ids=[task_id], batch_id="1000", failed_targets=[])
    (view,) = pending_views(request, reply)
    return msgspec.structs.replace(view, status=TaskState(status), **changes)


def make_node(name: str = "n1", **changes: object) -> NodeView:
    """Return a node of eight cores, three of them given out, as a host would show it."""
    view = NodeView(
        hostname=name,
        rev=1,
        url=None,
        status=NodeStatus.ONLINE,
        total_cores=8,
        cores_in_use=3,
        available_cores=5,
        cpus_in_use=[0, 1, 2],
        memory_total_bytes=16 << 30,
        memory_in_use_bytes=2 << 30,
        last_heartbeat="1970-01-01T00:01:40+00:00",
        numa_topology={"0": NumaNode((0, 1, 2, 3), 8 << 30), "1": NumaNode((4, 5, 6, 7), 8 << 30)},
        numa_use={},
        launcher="process",
        capabilities=Capabilities(),
        version="1",
        draining=False,
    )
    return msgspec.structs.replace(view, **changes)


class FakeCluster:
    """Holds tasks and logs; every change and every byte is pushed to whoever follows.

    `break_off` ends all open streams with an error, `down` refuses everything while it is set.
    """

    address = "http://fake"

    def __init__(self) -> None:
        self.rev = 0
        self.views: dict[str, TaskView] = {}
        self.down: HakuRiverError | None = None
        self.killed: list[str] = []
        self.requests: list[SubmitRequest] = []
        self.reruns: list[tuple[str, RerunRequest]] = []
        self.node_views: dict[str, NodeView] = {}
        self.afters: list[int | None] = []
        self.offsets: list[int] = []
        self.closed = False
        self.open_streams = 0
        self._history: list[Event] = []
        self._logs: dict[tuple[str, str], bytes] = {}
        self._closed_logs: set[tuple[str, str]] = set()
        self._breaks = 0
        self._moves = 0
        self._waiting: set[asyncio.Future[None]] = set()
        self._next_id = FIRST_ID

    # -- what tests do ------------------------------------------------------------------------

    def add(self, view: TaskView) -> None:
        """Put a task that exists."""
        self.rev += 1
        self.views[view.task_id] = msgspec.structs.replace(view, rev=self.rev)
        self._history.append(Event(rev=self.rev, task=self.views[view.task_id]))

    def put_node(self, view: NodeView) -> None:
        """Put a node, or a change of one."""
        self.rev += 1
        self.node_views[view.hostname] = msgspec.structs.replace(view, rev=self.rev)
        self._history.append(Event(rev=self.rev, node=self.node_views[view.hostname]))
        self._wake()

    def change(self, task_id: str, status: str, **changes: object) -> None:
        """Commit a change of a task."""
        self.rev += 1
        view = msgspec.structs.replace(
            self.views[task_id], status=TaskState(status), rev=self.rev, **changes
        )
        self.views[task_id] = view
        self._history.append(Event(rev=self.rev, task=view))
        self._wake()

    def finish(self, task_id: str, code: int = 0) -> None:
        """End a task with an exit code, and its logs."""
        for stream in ("stdout", "stderr"):
            self.end_log(task_id, stream)
        self.change(task_id, "failed" if code else "completed", exit_code=code)

    def write(self, task_id: str, data: bytes, stream: str = "stdout") -> None:
        """Append to a log."""
        self._logs[task_id, stream] = self._logs.get((task_id, stream), b"") + data
        self._wake()

    def end_log(self, task_id: str, stream: str = "stdout") -> None:
        """Let the log be whole."""
        self._closed_logs.add((task_id, stream))
        self._wake()

    def break_off(self, *, forget: bool = False) -> None:
        """Break every open stream; with `forget`, changes until now cannot be replayed."""
        self._breaks += 1
        if forget:
            self._history.clear()
        self._wake()

    # -- the Protocol -------------------------------------------------------------------------

    async def submit(self, request: SubmitRequest) -> SubmitReply:
        self._check()
        self.requests.append(request)
        targets = request.targets or [""]
        failed = [FailedTarget(each, "no such node") for each in targets if each == "nosuch"]
        ids = [str(self._new_id()) for each in targets if each != "nosuch"]
        if not ids:
            raise SubmissionRefused("no task was created", failed)
        reply = SubmitReply(
            message="ok",
            task_ids=ids,
            batch_id=request.batch_id or str(self._new_id()),
            failed_targets=failed,
            joined=request.batch_id is not None,
        )
        for view in pending_views(request, reply):
            self.views[view.task_id] = view
            self.change(view.task_id, "pending", owner="alice")
        # Lets the events overtake the reply, as they may on a network.
        await asyncio.sleep(0.01)
        return reply

    async def submit_many(self, requests: Sequence[SubmitRequest]) -> SubmitManyReply:
        answers: list[SubmitAnswer] = []
        for request in requests:
            try:
                answers.append(SubmitAnswer(reply=await self.submit(request)))
            except SubmissionRefused as error:
                failed = list(error.failed_targets)
                answer = ErrorAnswer(status=404, detail=str(error), failed_targets=failed)
                answers.append(SubmitAnswer(error=answer))
        return SubmitManyReply(answers)

    async def rerun(self, task_id: str, request: RerunRequest) -> SubmitReply:
        old = await self.status(task_id)
        if old.status not in FINAL:
            raise Conflict(f"task {task_id} has not ended")
        self.reruns.append((task_id, request))
        new_id, batch_id = str(self._new_id()), str(self._new_id())
        self.add(
            msgspec.structs.replace(
                old,
                task_id=new_id,
                batch_id=batch_id,
                retry_of=task_id,
                status=TaskState.PENDING,
                exit_code=None,
            )
        )
        return SubmitReply(message="ok", task_ids=[new_id], batch_id=batch_id, failed_targets=[])

    async def status(self, task_id: str) -> TaskView:
        self._check()
        if task_id not in self.views:
            raise NotFound(f"no task {task_id}")
        return self.views[task_id]

    async def tasks(self, **filters: Unpack[TaskFilters]) -> TaskList:
        found = [
            view
            for view in sorted(self.views.values(), key=lambda view: -int(view.task_id))
            if filters.get("state") in (None, view.status.value)
            and filters.get("node") in (None, view.assigned_node)
            and filters.get("name") in (None, view.name)
            and filters.get("batch") in (None, view.batch_id)
            and (not filters.get("mine") or view.owner == "alice")
            and int(view.task_id) < int(filters.get("before") or 1 << 62)
        ]
        page = found[: filters.get("limit", 50)]
        return TaskList(page, page[-1].task_id if len(found) > len(page) else None)

    async def kill(self, task_id: str) -> str:
        view = await self.status(task_id)
        if view.status in FINAL:
            raise Conflict(f"task {task_id} has ended")
        self.killed.append(task_id)
        return f"task {task_id} will end"

    async def kill_batch(self, batch_id: str) -> KillBatchReply:
        tasks = [view for view in self.views.values() if view.batch_id == batch_id]
        if not tasks:
            raise NotFound(f"no batch {batch_id}")
        going = [view.task_id for view in tasks if view.status not in FINAL]
        if not going:
            raise Conflict(f"all tasks of batch {batch_id} have ended")
        self.killed += going
        return KillBatchReply(message=f"{len(going)} tasks will end", task_ids=going)

    async def nodes(self) -> list[NodeView]:
        self._check()
        return list(self.node_views.values())

    async def drain(self, node: str) -> NodeView:
        return self._set_draining(node, draining=True)

    async def resume(self, node: str) -> NodeView:
        return self._set_draining(node, draining=False)

    async def forget(self, node: str) -> str:
        if node not in self.node_views:
            raise NotFound(f"no node {node}")
        if self.node_views[node].status is NodeStatus.ONLINE:
            raise Conflict(f"{node} is online")
        del self.node_views[node]
        self.rev += 1
        self._history.append(Event(rev=self.rev, forgotten=node))
        self._wake()
        return f"node {node} is forgotten"

    async def health(self, node: str | None = None) -> list[HealthView]:
        if node is not None:
            raise NotFound(f"no node {node}")
        return []

    @asynccontextmanager
    async def events(self, after: int | None = None) -> AsyncGenerator[AsyncIterator[Event]]:
        self._check()
        self.afters.append(after)
        self.open_streams += 1
        try:
            yield self._events(self.rev if after is None else after)
        finally:
            self.open_streams -= 1

    @asynccontextmanager
    async def follow_log(
        self, task_id: str, stream: Stream, *, offset: int = 0, tail: int | None = None
    ) -> AsyncGenerator[AsyncIterator[LogLine]]:
        await self.status(task_id)
        self.offsets.append(offset)
        if tail is not None:
            lines = self._logs.get((task_id, stream), b"").splitlines(keepends=True)
            offset = sum(map(len, lines[: max(0, len(lines) - tail)]))
        yield self._log_lines(task_id, stream, offset)

    @asynccontextmanager
    async def read_log(
        self, task_id: str, stream: Stream, *, tail: int | None = None
    ) -> AsyncGenerator[AsyncIterator[bytes]]:
        await self.status(task_id)
        data = self._logs.get((task_id, stream), b"")
        if tail is not None:
            data = b"".join(data.splitlines(keepends=True)[-tail:])
        yield self._pieces(data)

    async def close(self) -> None:
        self.closed = True

    # -- inside -------------------------------------------------------------------------------

    async def _events(self, seen: int) -> AsyncIterator[Event]:
        breaks = self._breaks
        yield Event(rev=seen)
        if seen < self.rev and not any(event.rev == seen + 1 for event in self._history):
            yield Event(rev=self.rev, reset=True)
            seen = self.rev
        while True:
            moves = self._moves
            if breaks != self._breaks:
                raise HostUnreachable("the link broke")
            for event in [event for event in self._history if event.rev > seen]:
                seen = event.rev
                yield event
            await self._moved(moves)

    async def _log_lines(self, task_id: str, stream: str, offset: int) -> AsyncIterator[LogLine]:
        breaks = self._breaks
        yield LogLine()
        while True:
            moves = self._moves
            if breaks != self._breaks:
                raise HostUnreachable("the link broke")
            data = self._logs.get((task_id, stream), b"")[offset:]
            if data:
                yield line_of(offset, data)
                offset += len(data)
            if moves != self._moves:
                continue
            if (task_id, stream) in self._closed_logs:
                yield LogLine(end=LogEndView(self.views[task_id].status, offset))
                return
            await self._moved(moves)

    async def _pieces(self, data: bytes) -> AsyncIterator[bytes]:
        for start in range(0, len(data), 3):
            yield data[start : start + 3]

    def _set_draining(self, node: str, *, draining: bool) -> NodeView:
        if node not in self.node_views:
            raise NotFound(f"no node {node}")
        self.put_node(msgspec.structs.replace(self.node_views[node], draining=draining))
        return self.node_views[node]

    def _check(self) -> None:
        if self.down is not None:
            raise self.down

    def _new_id(self) -> int:
        self._next_id += 1
        return self._next_id

    async def _moved(self, moves: int) -> None:
        """Return once more than `moves` things have happened."""
        if self._moves == moves:
            waiting = asyncio.get_running_loop().create_future()
            self._waiting.add(waiting)
            await waiting

    def _wake(self) -> None:
        self._moves += 1
        for waiting in tuple(self._waiting):
            self._waiting.discard(waiting)
            if not waiting.done():
                waiting.set_result(None)


def line_of(offset: int, data: bytes) -> LogLine:
    """Return the line that bears `data`: text where it is text."""
    try:
        return LogLine(offset=offset, data=data.decode())
    except UnicodeDecodeError:
        return LogLine(offset=offset, b64=msgspec.json.decode(msgspec.json.encode(data), type=str))
