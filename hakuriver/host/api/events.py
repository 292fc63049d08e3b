"""Every change of a task or node, as NDJSON; alone, or with logs in one stream."""

from __future__ import annotations

from hakuriver.host.api.base import ApiHandler
from hakuriver.host.stream import multiplex
from hakuriver.model.submission import StreamRequest, decode_body


class Events(ApiHandler):
    """Follows the feed of changes."""

    async def get(self) -> None:
        """Stream the changes after ``?after=REV``, or from now on."""
        feed = self.services.cluster.feed
        after = None
        if self.argument("after") is not None:
            after = self.number("after", low=0, high=1 << 62, default=0)
        self.set_header("Content-Type", "application/x-ndjson")
        await self.stream(feed.follow(after))


class Stream(ApiHandler):
    """``POST /stream``: the feed and any number of logs over one connection."""

    async def post(self) -> None:
        """Stream what the body asks for."""
        request = decode_body(self.request.body or b"{}", StreamRequest)
        self.set_header("Content-Type", "application/x-ndjson")
        source = multiplex(self.services, request)
        await self.stream(source)


ROUTES = [(r"(?:/api)?/events", Events), (r"(?:/api)?/stream", Stream)]
