"""Tasks: one, many, and the end of one."""

from __future__ import annotations

from hakuriver.errors import InvalidRequest
from hakuriver.host.api.base import ApiHandler
from hakuriver.host.store import queries
from hakuriver.model.ids import parse_id
from hakuriver.model.tasks import TaskState
from hakuriver.model.views import TaskList

_PAGE = 1000


class Status(ApiHandler):
    """``GET /status/{id}``."""

    async def get(self, task_id: str) -> None:
        """Answer the task object."""
        cluster = self.services.cluster
        await self.reply(cluster.view(await cluster.get(parse_id(task_id))))


class Tasks(ApiHandler):
    """``GET /tasks``: newest first, a page at a time."""

    async def get(self) -> None:
        """Answer the tasks that fit all the filters given."""
        cluster = self.services.cluster
        limit = self.number("limit", low=1, high=_PAGE, default=50)
        before, batch = self.argument("before"), self.argument("batch")
        records = await cluster.store.read(
            queries.tasks,
            limit=limit + 1,
            before=None if before is None else parse_id(before),
            state=self._state(),
            node=self.argument("node"),
            batch=None if batch is None else parse_id(batch, "batch"),
            name=self.argument("name"),
            owner=self.argument("owner"),
        )
        views = [cluster.view(record) for record in records[:limit]]
        more = views[-1].task_id if len(records) > limit else None
        await self.reply(TaskList(views, more))

    def _state(self) -> TaskState | None:
        text = self.argument("state")
        try:
            return None if text is None else TaskState(text)
        except ValueError:
            known = ", ".join(TaskState)
            raise InvalidRequest("state", f"{text!r} is no state (they are: {known})") from None


class Kill(ApiHandler):
    """``POST /kill/{id}``."""

    async def post(self, task_id: str) -> None:
        """Answer 202 once the wish is on disk; 404 or 409 where there is nothing to end."""
        await self.services.cluster.kill(parse_id(task_id))
        await self.reply({"message": f"task {task_id} will end"}, 202)


ROUTES = [
    (r"(?:/api)?/status/([^/]+)", Status),
    (r"(?:/api)?/tasks", Tasks),
    (r"(?:/api)?/kill/([^/]+)", Kill),
]
