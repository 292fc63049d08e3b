"""The host's parts without a network: a real store and cluster, links that keep what is sent."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import peewee

from hakuriver.host import exchange
from hakuriver.host.cluster import Cluster
from hakuriver.host.store import Store
from hakuriver.host.submission import Submission
from hakuriver.model.messages import (
    PROTOCOL,
    Finished,
    Hello,
    Known,
    Launch,
    Message,
    Refuse,
    Started,
)
from hakuriver.model.nodes import Capabilities, NodeInfo, NumaNode
from hakuriver.model.submission import SubmitRequest
from hakuriver.model.tasks import Exit, TaskState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    import pytest

    from hakuriver.host.records import TaskRecord
    from hakuriver.model.views import SubmitReply, TaskView

M = TypeVar("M", bound=Message)


class FakeLink:
    """A link that reaches nobody and keeps what was sent over it."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.broken: str | None = None

    def send(self, message: Message) -> None:
        self.sent.append(message)

    def disconnect(self, reason: str) -> None:
        self.broken = reason

    def of(self, kind: type[M]) -> list[M]:
        return [message for message in self.sent if isinstance(message, kind)]

    def ids(self, kind: type[M]) -> list[int]:
        return [int(getattr(message, "task_id")) for message in self.of(kind)]  # noqa: B009


class Commits:
    """Counts the commits of a store while it is in use, and can let them fail.

    After `passing` ones, so many as `failing` says fail. One that fails is tried once more by the
    store.
    """

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = self.passing = self.failing = 0
        commit = store._database.commit

        def counted() -> None:
            self.count += 1
            if self.passing:
                self.passing -= 1
            elif self.failing:
                self.failing -= 1
                raise peewee.OperationalError("database or disk is full")
            commit()

        monkeypatch.setattr(store._database, "commit", counted)


def node_info(
    cpus: Iterable[int] = range(2),
    *,
    numa: Mapping[str, Iterable[int]] | None = None,
    memory: int = 1 << 32,
    capabilities: Capabilities | None = None,
) -> NodeInfo:
    """Return what a runner tells of a machine."""
    topology = {key: NumaNode(tuple(cores), 1 << 30) for key, cores in (numa or {}).items()}
    return NodeInfo(
        version="0",
        launcher="process",
        cpus=tuple(cpus),
        memory_bytes=memory,
        numa_topology=topology,
        capabilities=capabilities or Capabilities(),
    )


def hello(
    info: NodeInfo | None = None,
    *,
    uid: str = "uid",
    cluster_id: str | None = None,
    protocol: int = PROTOCOL,
) -> Hello:
    """Return a runner's first word."""
    return Hello(
        protocol=protocol,
        node_uid=uid,
        boot_id="boot",
        session="session",
        cluster_id=cluster_id,
        info=info or node_info(),
    )


def completed(task_id: int, **changes: object) -> Finished:
    """Return a runner's word that a task completed."""
    values: dict[str, object] = {"status": TaskState.COMPLETED, "exit_code": 0, "completed_at": 2.0}
    return Finished(task_id=task_id, exit=Exit(**values | changes))  # type: ignore[arg-type]


def started(task_id: int, at: float = 1.0) -> Started:
    """Return a runner's word that a task runs."""
    return Started(task_id=task_id, started_at=at, stdout_path="/o", stderr_path="/e")


def known(record: TaskRecord, *, at: float | None = None, end: Exit | None = None) -> Known:
    """Return what a runner tells of a task in its journal."""
    return Known(
        task_id=record.id,
        spec=record.spec,
        placement=record.placement,
        origin=record.origin,
        started_at=at,
        exit=end,
        stdout_path="/o",
        stderr_path="/e",
    )


async def until(probe: Callable[[], object], *, what: str = "", timeout: float = 30.0) -> None:  # noqa: ASYNC109
    """Return when `probe` is true; fail after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not probe():
        assert time.monotonic() < deadline, what or "not in time"
        await asyncio.sleep(0.002)


class World:
    """A cluster on a real store, whose runners are `FakeLink` values."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.cluster = Cluster(store)
        self.links: dict[str, FakeLink] = {}

    async def settle(self) -> None:
        """Return when nothing is under way any more."""
        while self.cluster._running:
            await asyncio.wait(set(self.cluster._running))

    async def link(
        self, name: str, info: NodeInfo | None = None, *, uid: str = "uid"
    ) -> tuple[FakeLink, Refuse | None]:
        """Say hello as the runner `name`; its exchange is still to come."""
        greeting = hello(info, uid=uid)
        refusal = exchange.objection(self.cluster, name, greeting)
        link = FakeLink()
        if refusal is None:
            await self.cluster.nodes.admit(name, greeting, link)
            self.links[name] = link
        return link, refusal

    async def exchange(self, name: str = "n", told: Sequence[Known] = ()) -> None:
        """Tell all that the runner knows, and wait for what follows from it."""
        await exchange.reconcile(self.cluster, name, self.links[name], told)
        await self.settle()

    async def join(
        self,
        name: str = "n",
        info: NodeInfo | None = None,
        *,
        told: Sequence[Known] = (),
        uid: str = "uid",
    ) -> FakeLink:
        """Bring a node online and return its link."""
        link, refusal = await self.link(name, info, uid=uid)
        assert refusal is None, refusal
        await self.exchange(name, told)
        return link

    async def leave(self, name: str = "n") -> None:
        """Break a node's link."""
        self.detach(name, self.links[name])
        await self.settle()

    def detach(self, name: str, link: FakeLink) -> None:
        """Say that a link has broken."""
        self.cluster.nodes.detach(name, link, self.cluster.spawn)

    async def ask(
        self, *targets: str, owner: str = "alice", retry_of: int | None = None, **fields: Any
    ) -> SubmitReply:
        """Submit a command (or what `fields` say) and return the answer."""
        if not fields.get("script"):
            fields.setdefault("command", "true")
        request = SubmitRequest(targets=list(targets) or None, **fields)
        return await Submission(self.cluster, request, owner, retry_of=retry_of).submit()

    async def submit(self, *targets: str, **fields: Any) -> list[int]:
        """Submit as `ask` does, wait for what follows from it, and return the tasks' ids."""
        reply = await self.ask(*targets, **fields)
        await self.settle()
        return [int(task_id) for task_id in reply.task_ids]

    async def lose(self, task_id: int, name: str = "n") -> TaskRecord:
        """Let a started task be lost: its node's link breaks, and it is silent for too long."""
        record = await self.record(task_id)
        await self.leave(name)
        await exchange.sweep(self.cluster, -1)
        return record

    async def start(self, task_id: int, *, node: str = "n") -> None:
        """Let the node say that a task runs."""
        await self.cluster.started(node, started(task_id))

    async def finish(self, task_id: int, *, node: str = "n", **changes: object) -> None:
        """Let the node say that a task ended."""
        await self.cluster.finished(node, completed(task_id, **changes))
        await self.settle()

    async def record(self, task_id: int) -> TaskRecord:
        """Return a task as the store has it."""
        from hakuriver.host.store import queries  # noqa: PLC0415

        found = await self.store.read(queries.task, task_id)
        assert found is not None
        return found

    async def status(self, task_id: int) -> TaskState:
        """Return a task's state in the store, having seen that memory agrees."""
        stored = (await self.record(task_id)).status
        assert (await self.cluster.get(task_id)).status is stored
        return stored

    async def view(self, task_id: int) -> TaskView:
        """Return a task as clients see it."""
        return self.cluster.view(await self.cluster.get(task_id))

    def free(self, node: str = "n") -> set[int]:
        """Return the CPUs that nobody holds."""
        return set(self.cluster.scheduler.machine(node).room().cpus)

    def held(self, node: str = "n") -> set[int]:
        """Return the tasks that hold something of a node."""
        return set(self.cluster.scheduler.machine(node).held)

    def launches(self, node: str = "n") -> list[int]:
        """Return the ids that were sent to a node over its present link."""
        return self.links[node].ids(Launch)


@asynccontextmanager
async def open_world(path: Path) -> AsyncIterator[World]:
    """Open a host's store and cluster on the database `path`, and close both in order."""
    store = await asyncio.to_thread(Store, path, cluster_id="cluster")
    try:
        world = World(store)
        await world.cluster.load()
        yield world
        await world.settle()
        await world.cluster.close()
    finally:
        await asyncio.to_thread(store.close)
