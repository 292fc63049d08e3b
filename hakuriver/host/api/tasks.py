"""Tasks: one, many, and the end of one."""

from __future__ import annotations

import asyncio

import msgspec

from hakuriver.errors import Conflict, InvalidRequest
from hakuriver.host.api.base import ApiHandler
from hakuriver.host.store import queries
from hakuriver.model.ids import parse_id
from hakuriver.model.tasks import TaskState
from hakuriver.model.views import KillBatchReply, TaskList, TaskView

_PAGE = 1000
# Long command lines make short pages.
_PAGE_BYTES = 4 << 20


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
            owner=self._owner_asked(),
        )
        views: list[TaskView] = []
        size = 0
        for record in records[:limit]:
            if size > _PAGE_BYTES:
                break
            views.append(cluster.view(record))
            size += len(msgspec.json.encode(views[-1]))
        more = views[-1].task_id if len(records) > len(views) else None
        await self.reply(TaskList(views, more))

    def _owner_asked(self) -> str | None:
        mine = self.argument("mine") not in (None, "0")
        if mine and self.argument("owner") not in (None, self.owner):
            raise InvalidRequest("mine", "goes without owner, or with the token's own name")
        return self.owner if mine else self.argument("owner")

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


class KillBatch(ApiHandler):
    """``POST /kill-batch/{id}``."""

    async def post(self, batch_id: str) -> None:
        """Answer 202 with the tasks that will end; 404 or 409 where there is nothing to end."""
        cluster = self.services.cluster
        records = await cluster.batch(parse_id(batch_id, "batch"))
        # Submitted last, ended first: none of them starts in the place of another.
        unfinished = [
            record.id
            for record in reversed(records)
            # A lost one may still run: its node is told when it is back.
            if not record.is_final or record.status is TaskState.LOST
        ]
        asked = await asyncio.gather(*(self._kill(task_id) for task_id in unfinished))
        killed = sorted(task_id for task_id in asked if task_id is not None)
        if not killed:
            raise Conflict(f"all tasks of batch {batch_id} have ended already")
        reply = KillBatchReply(
            message=f"{len(killed)} of {len(records)} tasks will end",
            task_ids=[str(task_id) for task_id in killed],
        )
        await self.reply(reply, 202)

    async def _kill(self, task_id: int) -> int | None:
        try:
            await self.services.cluster.kill(task_id)
        except Conflict:
            return None
        return task_id


ROUTES = [
    (r"(?:/api)?/status/([^/]+)", Status),
    (r"(?:/api)?/tasks", Tasks),
    (r"(?:/api)?/kill/([^/]+)", Kill),
    (r"(?:/api)?/kill-batch/([^/]+)", KillBatch),
]
