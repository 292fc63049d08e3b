"""`Cluster` over the HTTP API of a HakuRiver host."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import msgspec

from hakuriver.client.transport import Transport
from hakuriver.model.ids import parse_id
from hakuriver.model.views import (
    Event,
    HealthView,
    LogLine,
    NodeView,
    SubmitReply,
    TaskList,
    TaskView,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager

    from hakuriver.client.endpoint import Endpoint
    from hakuriver.model.messages import Stream
    from hakuriver.model.submission import SubmitRequest


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
        return cls(Transport(endpoint.url, endpoint.token))

    @property
    def address(self) -> str:
        """The host's URL."""
        return self._transport.url

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at {self.address}>"

    async def submit(self, request: SubmitRequest) -> SubmitReply:
        """Create the tasks of `request`."""
        return await self._transport.request("POST", "/api/submit", SubmitReply, body=request)

    async def status(self, task_id: str) -> TaskView:
        """Return the task as the host knows it."""
        return await self._transport.request("GET", f"/api/status/{_id(task_id)}", TaskView)

    async def tasks(
        self,
        *,
        state: str | None = None,
        node: str | None = None,
        batch: str | None = None,
        name: str | None = None,
        owner: str | None = None,
        limit: int | None = None,
        before: str | None = None,
    ) -> TaskList:
        """Return a page of tasks, newest first."""
        given = {
            "state": state,
            "node": node,
            "batch": batch,
            "name": name,
            "owner": owner,
            "limit": limit,
            "before": before,
        }
        params = {key: str(value) for key, value in given.items() if value is not None}
        return await self._transport.request("GET", "/api/tasks", TaskList, params=params)

    async def kill(self, task_id: str) -> str:
        """Ask the host to end the task."""
        done = await self._transport.request("POST", f"/api/kill/{_id(task_id)}", _Done)
        return done.message

    async def nodes(self) -> list[NodeView]:
        """Return all nodes."""
        return (await self._transport.request("GET", "/api/nodes", _Nodes)).nodes

    async def health(self, node: str | None = None) -> list[HealthView]:
        """Return the use of all nodes, or of `node`."""
        params = {} if node is None else {"hostname": node}
        reply = await self._transport.request("GET", "/api/health", _Health, params=params)
        return reply.nodes

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


def _id(task_id: str) -> str:
    """Return an id that is safe in a path; raise `NotFound` for what can be none."""
    return str(parse_id(task_id))
