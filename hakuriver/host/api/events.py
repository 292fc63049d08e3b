"""``GET /events``: every change of a task or node, as NDJSON."""

from __future__ import annotations

from hakuriver.host.api.base import ApiHandler
from hakuriver.host.feed import line
from hakuriver.model.views import Event


class Events(ApiHandler):
    """Follows the feed of changes."""

    async def get(self) -> None:
        """Stream the changes after ``?after=REV``, or from now on."""
        feed = self.services.cluster.feed
        after = None
        if self.argument("after") is not None:
            after = self.number("after", low=0, high=1 << 62, default=0)
        self.set_header("Content-Type", "application/x-ndjson")
        await self.stream(feed.follow(after), lambda: line(Event(rev=feed.rev)))


ROUTES = [(r"(?:/api)?/events", Events)]
