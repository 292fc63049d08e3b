"""Rows for a store, and ways to change them, that its tests share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hakuriver.host.records import TaskRecord
from hakuriver.model.tasks import Placement, TaskSpec, TaskState

if TYPE_CHECKING:
    import peewee

    from hakuriver.host.store import Store


def statement(database: peewee.SqliteDatabase, text: str) -> Any:
    """Run one statement and return the first row it gives."""
    return database.execute_sql(text).fetchone()  # type: ignore[no-untyped-call]


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
        TaskRecord(
            id=first + index,
            placement=Placement(batch_id=first, batch_index=index, batch_size=count),
            spec=spec or TaskSpec(command="true"),
            rev=store.next_rev(),
            owner=owner,
            status=status,
            node=node,
            submitted_at=1.5,
        )
        for index in range(count)
    ]
