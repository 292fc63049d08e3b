"""Tasks: one, many, and the end of one."""

from __future__ import annotations

import asyncio
from typing import Annotated

import msgspec
from msgspec import Meta

from hakuriver.errors import Conflict, InvalidRequest
from hakuriver.host.api.base import ApiHandler
from hakuriver.host.api.operations import JSON, Operation
from hakuriver.host.store import queries
from hakuriver.model.ids import IdText, parse_id
from hakuriver.model.targets import MAX_NODE_NAME
from hakuriver.model.tasks import TaskState
from hakuriver.model.views import Done, KillBatchReply, TaskList, TaskView

_PAGE = 1000
# Long command lines make short pages.
_PAGE_BYTES = 4 << 20
# So many tasks are ended in one turn of the loop: what has joined a batch may make it far larger.
_TOGETHER = 1000
_Text = Annotated[str, Meta(max_length=200)]


class TasksQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which tasks are asked for; those that fit all that is given."""

    state: Annotated[TaskState | None, Meta(description=f"A state: {', '.join(TaskState)}.")] = None
    node: Annotated[
        Annotated[str, Meta(max_length=MAX_NODE_NAME)] | None,
        Meta(description="The name of a node, whole."),
    ] = None
    batch: Annotated[IdText | None, Meta(description="The id of a batch, in digits.")] = None
    name: Annotated[_Text | None, Meta(description="The name of the tasks, whole.")] = None
    owner: Annotated[_Text | None, Meta(description="The name of the token they came by.")] = None
    mine: Annotated[
        bool, Meta(description="1: those of the token that is used; it goes without owner. Else 0.")
    ] = False
    limit: Annotated[int, Meta(ge=1, le=_PAGE, description=f"At most so many: 1 to {_PAGE}.")] = 50
    before: Annotated[
        IdText | None, Meta(description="Older ones than the task of this id, in digits.")
    ] = None


class _Page(msgspec.Struct, frozen=True):
    """A `TaskList` whose tasks are JSON already."""

    tasks: list[msgspec.Raw]
    next_before: str | None


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
        query = self.query(TasksQuery)
        limit, before, batch = query.limit, query.before, query.batch
        records = await cluster.store.read(
            queries.tasks,
            limit=limit + 1,
            before=None if before is None else parse_id(before),
            state=query.state,
            node=query.node,
            batch=None if batch is None else parse_id(batch, "batch"),
            name=query.name,
            owner=self._owner_asked(query),
        )
        tasks: list[msgspec.Raw] = []
        size = 0
        for record in records[:limit]:
            if size > _PAGE_BYTES:
                break
            # Encoded once, for its size and for the answer.
            encoded = msgspec.json.encode(cluster.view(record))
            tasks.append(msgspec.Raw(encoded))
            size += len(encoded)
        more = str(records[len(tasks) - 1].id) if len(records) > len(tasks) else None
        await self.reply(_Page(tasks, more))

    def _owner_asked(self, query: TasksQuery) -> str | None:
        if query.mine and query.owner not in (None, self.owner):
            raise InvalidRequest("mine", "goes without owner, or with the token's own name")
        return self.owner if query.mine else query.owner


class Kill(ApiHandler):
    """``POST /kill/{id}``."""

    async def post(self, task_id: str) -> None:
        """Answer 202 once the wish is on disk; 404 or 409 where there is nothing to end."""
        await self.services.cluster.kill(parse_id(task_id))
        await self.reply(Done(f"task {task_id} will end"), 202)


class KillBatch(ApiHandler):
    """``POST /kill-batch/{id}``."""

    async def post(self, batch_id: str) -> None:
        """Answer 202 with the tasks that will end; 404 or 409 where there is nothing to end."""
        cluster = self.services.cluster
        count, records = await cluster.batch(parse_id(batch_id, "batch"))
        # Submitted last, ended first: none of them starts in the place of another.
        unfinished = [
            record.id
            for record in reversed(records)
            # A lost one may still run: its node is told when it is back.
            if not record.is_final or record.status is TaskState.LOST
        ]
        asked: list[int | None] = []
        for begin in range(0, len(unfinished), _TOGETHER):
            some = unfinished[begin : begin + _TOGETHER]
            asked += await asyncio.gather(*map(self._kill, some))
        killed = sorted(task_id for task_id in asked if task_id is not None)
        if not killed:
            raise Conflict(f"all tasks of batch {batch_id} have ended already")
        reply = KillBatchReply(
            message=f"{len(killed)} of {count} tasks will end",
            task_ids=[str(task_id) for task_id in killed],
        )
        await self.reply(reply, 202)

    async def _kill(self, task_id: int) -> int | None:
        try:
            await self.services.cluster.kill(task_id)
        except Conflict:
            return None
        return task_id


OPERATIONS = [
    Operation(
        method="GET",
        path="/status/{task_id}",
        summary="One task",
        replies={JSON: TaskView},
        errors=(404,),
    ),
    Operation(
        method="GET",
        path="/tasks",
        summary="Tasks, newest first, a page at a time",
        query=TasksQuery,
        replies={JSON: TaskList},
        errors=(404,),
    ),
    Operation(
        method="POST",
        path="/kill/{task_id}",
        summary="End a task, or never start it",
        replies={JSON: Done},
        status=202,
        errors=(404, 409),
    ),
    Operation(
        method="POST",
        path="/kill-batch/{batch_id}",
        summary="End the tasks of a batch",
        replies={JSON: KillBatchReply},
        status=202,
        errors=(404, 409),
    ),
]
ROUTES = [
    (r"(?:/api)?/status/([^/]+)", Status),
    (r"(?:/api)?/tasks", Tasks),
    (r"(?:/api)?/kill/([^/]+)", Kill),
    (r"(?:/api)?/kill-batch/([^/]+)", KillBatch),
]
