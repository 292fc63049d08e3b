"""The nodes: their links, how busy they are, and what they told of themselves."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import msgspec

from hakuriver.errors import Conflict, NotFound, StoreError
from hakuriver.host.pulse import Pulse
from hakuriver.host.records import NodeRecord
from hakuriver.host.rooms import Part
from hakuriver.host.store import Store, queries
from hakuriver.model.needs import lacks_of
from hakuriver.model.nodes import Metrics, NodeStatus
from hakuriver.model.views import (
    Event,
    HealthView,
    NodeView,
    NumaAccount,
    NumaHealth,
    to_iso,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from hakuriver.host.feed import Feed
    from hakuriver.host.scheduler import Scheduler
    from hakuriver.model.messages import Hello, Message


class Link(Protocol):
    """The way to a runner, as the cluster needs it."""

    def send(self, message: Message) -> None:
        """Send a message; it is lost without a word if the link is broken."""

    def disconnect(self, reason: str) -> None:
        """Break the link."""


@dataclass(slots=True)
class Node:
    """A node as it is now. `online` means linked, and its first exchange has ended.

    `refused` is why its runner was not taken in when it last tried.
    """

    record: NodeRecord
    heard: float
    link: Link | None = None
    online: bool = False
    metrics: Metrics = Metrics()  # noqa: RUF009 - frozen
    refused: str | None = None


def closed(node: Node) -> str | None:
    """Return why no task may start on a node, as words after its name; None if one may."""
    if not node.online:
        return "is offline"
    return "is draining" if node.record.draining else None


class Nodes:
    """All nodes that ever joined, by name."""

    def __init__(self, store: Store, scheduler: Scheduler, feed: Feed) -> None:
        self._store = store
        self._scheduler = scheduler
        self._feed = feed
        self._nodes: dict[str, Node] = {}
        self.moved: Pulse[str] = Pulse()

    def __iter__(self) -> Iterator[Node]:
        return iter([self._nodes[name] for name in sorted(self._nodes)])

    async def load(self) -> None:
        """Take up the nodes from the store; none of them is linked yet."""
        for record in await self._store.read(queries.nodes):
            # The time it was silent to a host that did not run is not the node's silence.
            self._nodes[record.name] = Node(record, heard=time.monotonic())
            self._tell_scheduler(self._nodes[record.name])

    def get(self, name: str) -> Node:
        """Return a node; raise `NotFound`."""
        if name not in self._nodes:
            known = ", ".join(sorted(self._nodes)) or "none has joined yet"
            raise NotFound(f"there is no node {name[:80]!r} (nodes: {known})")
        return self._nodes[name]

    def find(self, name: str | None) -> Node | None:
        """Return a node, None if there is none of that name."""
        return self._nodes.get(name or "")

    def send(self, name: str | None, message: Message) -> None:
        """Send to a node that is linked; else its next exchange will tell it."""
        node = self.find(name)
        if node is not None and node.link is not None:
            node.link.send(message)

    def is_linked(self, name: str, link: Link) -> bool:
        """Whether a node is linked over this very link."""
        node = self.find(name)
        return node is not None and node.link is link

    def online_link(self, name: str | None) -> Link | None:
        """Return the link of a node whose exchange has ended, None if there is none."""
        node = self.find(name)
        return node.link if node is not None and node.online else None

    async def admit(self, name: str, hello: Hello, link: Link) -> None:
        """Take in a runner's machine; tasks may start there only after `open`."""
        record = NodeRecord(
            name=name,
            rev=self._store.next_rev(),
            uid=hello.node_uid,
            info=hello.info,
            last_heartbeat=time.time(),
        )
        node = Node(record, heard=time.monotonic(), link=link)
        if name in self._nodes:
            before = self._nodes[name]
            node.metrics = before.metrics
            node.record = msgspec.structs.replace(record, draining=before.record.draining)
        self._tell_scheduler(node)
        self._nodes[name] = node
        await self._store.write(queries.save_node, node.record)

    async def open(self, name: str, link: Link) -> bool:
        """Let tasks start on a node: its exchange has ended. False if the link broke meanwhile."""
        node = self.get(name)
        if not self.is_linked(name, link):
            return False
        node.online = True
        self._tell_scheduler(node)
        await self._publish(node)
        return True

    def detach(
        self, name: str, link: Link, spawn: Callable[[Coroutine[None, None, None]], None]
    ) -> None:
        """Take a broken link off at once, unless another has its place; `spawn` tells of it."""
        node = self.find(name)
        if node is None or node.link is not link:
            return
        node.link, node.online = None, False
        self._tell_scheduler(node)
        spawn(self._publish(node))

    def refuse(
        self, name: str, reason: str, spawn: Callable[[Coroutine[None, None, None]], None]
    ) -> None:
        """Note that the runner of a node is not taken in; `spawn` tells of it.

        Of one that nobody knows there is nothing to show; one that is linked has another runner.
        """
        node = self.find(name)
        if node is not None and node.link is None and node.refused != reason:
            node.refused = reason
            spawn(self._publish(node))

    async def drain(self, name: str, *, draining: bool) -> Node:
        """Let no more tasks start on a node, or let them again; raise `NotFound`."""
        node = self.get(name)
        node.record = msgspec.structs.replace(node.record, draining=draining)
        self._tell_scheduler(node)
        await self._publish(node)
        return node

    def check_away(self, name: str) -> None:
        """Raise `Conflict` for a node that is linked, `NotFound` for one that nobody knows."""
        if self.get(name).link is not None:
            raise Conflict(
                f"{name} is online; stop its runner first (drain it to let its tasks end)"
            )

    async def forget(self, name: str) -> None:
        """Remove a node.

        Raises:
            NotFound: there is no such node.
            Conflict: it is linked; it would only come back.
        """
        self.check_away(name)
        node = self._nodes.pop(name)
        rev = self._store.next_rev()
        try:
            await self._store.write(queries.forget_node, name, rev)
        except StoreError:
            self._nodes.setdefault(name, node)
            raise
        self._store.raise_floor(rev)
        if name in self._nodes:
            return  # it came back meanwhile, as a new node
        self._scheduler.forget_node(name)
        self._feed.publish(Event(rev=rev, forgotten=name))
        self.moved.fire(name)

    def excuse(self, seconds: float) -> None:
        """Take note that nobody could be heard for so long, by no fault of the nodes."""
        for node in self:
            node.heard += seconds

    def heard(self, name: str, metrics: Metrics | None = None) -> None:
        """Take note of a sign of life."""
        node = self.get(name)
        node.heard = time.monotonic()
        node.record = msgspec.structs.replace(node.record, last_heartbeat=time.time())
        if metrics is not None:
            node.metrics = metrics

    def views(self) -> list[NodeView]:
        """Return all nodes as clients see them, sorted by name."""
        return [self.view(node) for node in self]

    def view(self, node: Node) -> NodeView:
        """Return a node with its accounting."""
        record, info = node.record, node.record.info
        machine = self._scheduler.machine(record.name)
        in_use = sorted(set(info.cpus) - machine.room().cpus)
        return NodeView(
            hostname=record.name,
            rev=record.rev,
            url=None,
            status=NodeStatus.ONLINE if node.online else NodeStatus.OFFLINE,
            total_cores=len(info.cpus),
            cores_in_use=len(in_use),
            available_cores=len(info.cpus) - len(in_use),
            cpus_in_use=in_use,
            memory_total_bytes=info.memory_bytes,
            memory_in_use_bytes=machine.memory_in_use(),
            last_heartbeat=to_iso(record.last_heartbeat),
            numa_topology=info.numa_topology or None,
            numa_use={
                key: NumaAccount(
                    total_cores=len(part.cores),
                    cores_in_use=len(set(part.cores).intersection(in_use)),
                    memory_bytes=part.memory_bytes,
                    memory_in_use_bytes=machine.memory_in_use(int(key)),
                )
                for key, part in info.numa_topology.items()
            },
            launcher=info.launcher,
            capabilities=info.capabilities,
            version=info.version,
            draining=record.draining,
            refused=node.refused,
        )

    def health(self, node: Node) -> HealthView:
        """Return a node's measured use."""
        info, metrics = node.record.info, node.metrics
        total = metrics.memory_total_bytes or info.memory_bytes
        return HealthView(
            hostname=node.record.name,
            status=NodeStatus.ONLINE if node.online else NodeStatus.OFFLINE,
            last_heartbeat=to_iso(node.record.last_heartbeat),
            cpu_percent=metrics.cpu_percent,
            memory_percent=round(100 * metrics.memory_used_bytes / total, 1) if total else 0.0,
            memory_used_bytes=metrics.memory_used_bytes,
            memory_total_bytes=total,
            load_average=metrics.load_average,
            numa={
                key: NumaHealth(
                    cores=list(numa.cores),
                    memory_bytes=numa.memory_bytes,
                    use=metrics.numa.get(key),
                )
                for key, numa in info.numa_topology.items()
            },
            launcher=info.launcher,
            capabilities=info.capabilities,
            version=info.version,
        )

    def _tell_scheduler(self, node: Node) -> None:
        info = node.record.info
        self._scheduler.set_node(
            node.record.name,
            Part(frozenset(info.cpus), info.memory_bytes),
            {
                int(key): Part(frozenset(part.cores), part.memory_bytes)
                for key, part in info.numa_topology.items()
            },
            lacks=lacks_of(info.capabilities),
            closed=closed(node),
        )

    async def _publish(self, node: Node) -> None:
        """Save a node as it is now under a new rev, then tell everybody; not of a forgotten one."""
        if self.find(node.record.name) is not node:
            return
        node.record = record = msgspec.structs.replace(node.record, rev=self._store.next_rev())
        try:
            await self._store.write(queries.save_node, record)
        finally:
            # What is true of a link is told even where it cannot be written.
            if self.find(record.name) is node:
                view = msgspec.structs.replace(self.view(node), rev=record.rev)
                self._feed.publish(Event(rev=record.rev, node=view))
            self.moved.fire(record.name)
