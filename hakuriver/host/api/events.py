"""Every change of a task or node, as NDJSON; alone, or with logs in one stream."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from hakuriver.host.api.base import ApiHandler
from hakuriver.host.api.operations import NDJSON, Operation
from hakuriver.host.api.queries import HIGHEST
from hakuriver.host.stream import multiplex
from hakuriver.model.submission import StreamRequest, decode_body
from hakuriver.model.views import Event, StreamLine


class EventsQuery(msgspec.Struct, frozen=True, kw_only=True):
    """What of the changes is asked for."""

    after: Annotated[
        Annotated[int, Meta(ge=0, le=HIGHEST)] | None,
        Meta(description="The `rev` of the last event that is known; else those from now on."),
    ] = None


class Events(ApiHandler):
    """Follows the feed of changes."""

    async def get(self) -> None:
        """Stream the changes after ``?after=REV``, or from now on."""
        feed = self.services.cluster.feed
        source = feed.follow(self.query(EventsQuery).after)
        self.set_header("Content-Type", NDJSON)
        await self.stream(source)


class Stream(ApiHandler):
    """``POST /stream``: the feed and any number of logs over one connection."""

    async def post(self) -> None:
        """Stream what the body asks for."""
        request = decode_body(self.request.body or b"{}", StreamRequest)
        self.set_header("Content-Type", NDJSON)
        source = multiplex(self.services, request)
        await self.stream(source)


OPERATIONS = [
    Operation(
        method="GET",
        path="/events",
        summary="Follow the changes of tasks and nodes, without end",
        query=EventsQuery,
        replies={NDJSON: Event},
    ),
    Operation(
        method="POST",
        path="/stream",
        summary="Follow changes and logs over one connection, without end",
        body=StreamRequest,
        body_needed=False,
        replies={NDJSON: StreamLine},
    ),
]
ROUTES = [(r"(?:/api)?/events", Events), (r"(?:/api)?/stream", Stream)]
