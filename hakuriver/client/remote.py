"""`Cluster` over the HTTP API of a HakuRiver host."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self, Unpack

import msgspec

from hakuriver.client.cluster import TaskFilters
from hakuriver.client.transport import Transport
from hakuriver.model.ids import parse_id
from hakuriver.model.submission import SubmitManyRequest
from hakuriver.model.targets import check_node_name
from hakuriver.model.views import (
    Event,
    HealthView,
    KillBatchReply,
    LogLine,
    NodeView,
    SubmitManyReply,
    SubmitReply,
    TaskList,
    TaskView,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from contextlib import AbstractAsyncContextManager

    from hakuriver.client.endpoint import Endpoint
    from hakuriver.model.messages import Stream
    from hakuriver.model.submission import RerunRequest, SubmitRequest


class _Nodes(msgspec.Struct, frozen=True):
    nodes: list[NodeView]


class _Health(msgspec.Struct, frozen=True):
    nodes: list[HealthView]


class _Done(msgspec.Struct, frozen=True):
    message: str


class HttpCluster:
    """The machines of one host, reached by HTTP; see `hakuriver.client.cluster.Cluster`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    @classmethod
    def at(cls, endpoint: Endpoint) -> Self:
        """Return the cluster at `endpoint`; nothing is sent yet."""
        return cls(Transport(endpoint.url, endpoint.token, trust=endpoint.trust()))

    @property
    def address(self) -> str:
        """The host's URL."""
        return self._transport.url

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at {self.address}>"

    async def submit(self, request: SubmitRequest) -> SubmitReply:
        """Create the tasks of `request`."""
        return await self._transport.request(
            "POST", "/api/submit", SubmitReply, body=request, repeat=_keyed([request])
        )

    async def submit_many(self, requests: Sequence[SubmitRequest]) -> SubmitManyReply:
        """Create the tasks of all `requests` in one transaction."""
        body = SubmitManyRequest(
            submissions=[msgspec.Raw(msgspec.json.encode(request)) for request in requests]
        )
        return await self._transport.request(
            "POST", "/api/submit-many", SubmitManyReply, body=body, repeat=_keyed(requests)
        )

    async def rerun(self, task_id: str, request: RerunRequest) -> SubmitReply:
        """Create a new task like one that has ended."""
        path = f"/api/rerun/{_id(task_id)}"
        return await self._transport.request(
            "POST", path, SubmitReply, body=request, repeat=_keyed([request])
        )

    async def status(self, task_id: str) -> TaskView:
        """Return the task as the host knows it."""
        return await self._transport.request("GET", f"/api/status/{_id(task_id)}", TaskView)

    async def tasks(self, **filters: Unpack[TaskFilters]) -> TaskList:
        """Return a page of tasks, newest first."""
        params = _params(filters)
        return await self._transport.request("GET", "/api/tasks", TaskList, params=params)

    async def kill(self, task_id: str) -> str:
        """Ask the host to end the task."""
        done = await self._transport.request("POST", f"/api/kill/{_id(task_id)}", _Done)
        return done.message

    async def kill_batch(self, batch_id: str) -> KillBatchReply:
        """Ask the host to end all tasks of the batch."""
        path = f"/api/kill-batch/{_id(batch_id, 'batch')}"
        return await self._transport.request("POST", path, KillBatchReply)

    async def nodes(self) -> list[NodeView]:
        """Return all nodes."""
        return (await self._transport.request("GET", "/api/nodes", _Nodes)).nodes

    async def health(self, node: str | None = None) -> list[HealthView]:
        """Return the use of all nodes, or of `node`."""
        params = {} if node is None else {"hostname": node}
        reply = await self._transport.request("GET", "/api/health", _Health, params=params)
        return reply.nodes

    async def drain(self, node: str) -> NodeView:
        """Let a node get no new tasks."""
        return await self._transport.request("POST", f"{_node(node)}/drain", NodeView)

    async def resume(self, node: str) -> NodeView:
        """Let a node get new tasks again."""
        return await self._transport.request("POST", f"{_node(node)}/resume", NodeView)

    async def forget(self, node: str) -> str:
        """Remove a node that is offline."""
        return (await self._transport.request("DELETE", _node(node), _Done)).message

    def events(self, after: int | None = None) -> AbstractAsyncContextManager[AsyncIterator[Event]]:
        """Open the stream of changes."""
        params = {} if after is None else {"after": str(after)}
        return self._transport.lines("/api/events", Event, params=params)

    def follow_log(
        self, task_id: str, stream: Stream, *, offset: int = 0, tail: int | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[LogLine]]:
        """Open a log and go on until the task has ended."""
        start = {"offset": str(offset)} if tail is None else {"tail": str(tail)}
        path = f"/api/task/{_id(task_id)}/{stream}"
        return self._transport.lines(path, LogLine, params={"follow": "1", **start})

    def read_log(
        self, task_id: str, stream: Stream, *, tail: int | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Open a log as it is now."""
        params = {} if tail is None else {"tail": str(tail)}
        return self._transport.chunks(f"/api/task/{_id(task_id)}/{stream}", params=params)

    async def close(self) -> None:
        """Close all connections."""
        await self._transport.close()


def _id(text: str, what: str = "task") -> str:
    """Return an id that is safe in a path; raise `NotFound` for what can be none."""
    return str(parse_id(text, what))


def _node(name: str) -> str:
    """Return a node's path; raise `InvalidRequest` for what can be none."""
    return f"/api/nodes/{check_node_name(name)}"


def _keyed(requests: Sequence[SubmitRequest | RerunRequest]) -> bool:
    """Tell whether `requests` do nothing more when they arrive twice."""
    return all(request.idempotency_key is not None for request in requests)


def _params(filters: TaskFilters) -> dict[str, str]:
    unknown = sorted(set(filters) - set(TaskFilters.__annotations__))
    if unknown:
        known = ", ".join(TaskFilters.__annotations__)
        raise TypeError(f"there is no filter {unknown[0]!r}, but: {known}")
    texts = {name: "1" if value is True else str(value) for name, value in filters.items()}
    return {name: text for name, text in texts.items() if filters.get(name) not in (None, False)}
