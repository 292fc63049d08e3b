"""Rows for a store, and ways to change them, that its tests share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hakuriver.host.records import TaskRecord
from hakuriver.host.store import changes, queries
from hakuriver.model.tasks import Origin, Placement, TaskSpec, TaskState

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    import peewee

    from hakuriver.host.records import Request
    from hakuriver.host.store import Store


def statement(database: peewee.SqliteDatabase, text: str) -> Any:
    """Run one statement and return the first row it gives."""
    return database.execute_sql(text).fetchone()  # type: ignore[no-untyped-call]


def record_of(
    task_id: int,
    *,
    batch_id: int | None = None,
    index: int = 0,
    size: int = 1,
    rev: int = 1,
    node: str | None = "n",
    status: TaskState = TaskState.PENDING,
    spec: TaskSpec | None = None,
    owner: str = "alice",
) -> TaskRecord:
    """Return one task, alone in its batch unless told otherwise."""
    batch = task_id if batch_id is None else batch_id
    return TaskRecord(
        id=task_id,
        placement=Placement(batch_id=batch, batch_index=index, batch_size=size),
        spec=spec or TaskSpec(command="true"),
        origin=Origin(owner=owner, submitted_at=1.5, targeted=node is not None),
        rev=rev,
        status=status,
        node=node,
    )


def records(
    store: Store,
    count: int = 1,
    *,
    first: int = 1,
    node: str | None = "n",
    status: TaskState = TaskState.PENDING,
    spec: TaskSpec | None = None,
    owner: str = "alice",
) -> list[TaskRecord]:
    """Return a batch of tasks with the ids from `first` on."""
    return [
        record_of(
            first + index,
            batch_id=first,
            index=index,
            size=count,
            rev=store.next_rev(),
            node=node,
            status=status,
            spec=spec,
            owner=owner,
        )
        for index in range(count)
    ]


def insert(
    store: Store,
    batch: Sequence[TaskRecord],
    script: bytes | None = None,
    request: Request | None = None,
) -> asyncio.Future[None]:
    """Insert the tasks of one submission."""
    return store.write(changes.insert_batch, batch, script, request)


async def move(
    store: Store,
    task_id: int,
    to: TaskState,
    *,
    only_from: TaskState | None = None,
    of_node: str | None = None,
    **fields: Any,
) -> TaskRecord | None:
    """Enter a state and return the task as it is then, None if that was not legal."""
    rev = store.next_rev()

    def moved() -> TaskRecord | None:
        record = queries.task(task_id) or record_of(task_id)
        entered = changes.transition(
            record, to, rev, only_from=only_from, of_node=of_node, **changes.columns(fields)
        )
        return queries.task(task_id) if entered else None

    return await store.write(moved)


async def walk(store: Store, task_id: int, *states: TaskState) -> TaskRecord:
    """Let a task go through states, all of which must be legal."""
    record = None
    for state in states:
        record = await move(store, task_id, state)
        assert record is not None, state
    assert record is not None
    return record


async def ask_kill(store: Store, task_id: int) -> TaskRecord | None:
    """Remember that a task is to end; return it as it is then, None if it has ended."""
    if not await store.write(changes.request_kill, task_id, store.next_rev()):
        return None
    return await get(store, task_id)


async def get(store: Store, task_id: int) -> TaskRecord:
    """Return a task that is there."""
    record = await store.read(queries.task, task_id)
    assert record is not None
    return record
