"""``POST /submit``: one task for each target."""

from __future__ import annotations

from hakuriver.host.api.base import ApiHandler
from hakuriver.host.submission import submit
from hakuriver.model.submission import SubmitRequest


class Submit(ApiHandler):
    """Takes a submission in; its ids are on disk when it answers."""

    async def post(self) -> None:
        """Answer 202 with the ids; 422, 4xx or 503 when no task was created."""
        request = SubmitRequest.from_json(self.request.body)
        reply = await submit(self.services.cluster, request, self.owner)
        await self.reply(reply, 202)


ROUTES = [(r"(?:/api)?/submit", Submit)]
