"""The statements that the store runs. Each function belongs inside a transaction.

Every change of a row gives it a new `rev`, a number that grows over all rows, so that "what
changed since" is one indexed query.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from peewee import fn

from hakuriver.host.records import NodeRecord, TaskRecord
from hakuriver.host.store.models import Batch, Meta, Node, Task
from hakuriver.model.nodes import NodeInfo
from hakuriver.model.tasks import FINAL, Placement, TaskSpec, TaskState, sources_of
from hakuriver.model.views import MASK

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_SPEC = msgspec.msgpack.Decoder(TaskSpec)
_UNFINISHED = tuple(state.value for state in TaskState if state not in FINAL)
_JOINED = (*Task._meta.sorted_fields, Batch.spec)  # noqa: SLF001


def read_meta(key: str) -> str | None:
    """Return a fact about the database, None if it was never written."""
    row = Meta.get_or_none(Meta.key == key)
    return None if row is None else str(row.value)


def write_meta(key: str, value: str) -> None:
    """Write a fact about the database."""
    Meta.replace(key=key, value=value).execute()


def highest() -> tuple[int, int]:
    """Return the largest rev and the largest id ever given and still stored; 0 for none."""
    revs = [table.select(fn.MAX(table.rev)).scalar() or 0 for table in (Task, Node)]
    ids = [table.select(fn.MAX(table.id)).scalar() or 0 for table in (Task, Batch)]
    return max(revs), max(ids)


def insert_batch(records: Sequence[TaskRecord], script: bytes | None) -> None:
    """Insert the tasks of one submission and what they share; all or none."""
    first = records[0]
    Batch.insert(
        id=first.placement.batch_id, spec=msgspec.msgpack.encode(first.spec), script=script
    ).execute()
    Task.insert_many(_row(record) for record in records).execute()


def _row(record: TaskRecord) -> dict[str, Any]:
    place = record.placement
    return {
        "id": record.id,
        "batch_id": place.batch_id,
        "batch_index": place.batch_index,
        "batch_size": place.batch_size,
        "rev": record.rev,
        "owner": record.owner,
        "name": record.spec.name,
        "status": record.status.value,
        "node": record.node,
        "numa_node": place.numa_node,
        "cpus": msgspec.json.encode(place.cpus).decode(),
        "reason": record.reason,
        "submitted_at": record.submitted_at,
    }


def transition(
    task_id: int,
    to: TaskState,
    rev: int,
    *,
    only_from: TaskState | None = None,
    of_node: str | None = None,
    **changes: Any,
) -> TaskRecord | None:
    """Enter a state if that is legal, in one conditional update; None where it was not.

    `only_from` narrows the states it may be entered from. `of_node` makes it conditional on the
    task's node too: a runner speaks for its own tasks.
    When the last task of a batch has ended, the values of the environment are erased.
    """
    legal = [state.value for state in sources_of(to) if only_from in (None, state)]
    update = Task.update(status=to.value, rev=rev, **changes).where(
        (Task.id == task_id) & Task.status.in_(legal)
    )
    if of_node is not None:
        update = update.where(Task.node == of_node)
    if update.execute() == 0:
        return None
    record = task(task_id)
    if to in FINAL and to is not TaskState.LOST and record is not None:
        _erase_environment(record)
    return record


def _erase_environment(record: TaskRecord) -> None:
    batch_id = record.placement.batch_id
    wanted = (*_UNFINISHED, TaskState.LOST.value)
    waiting = Task.select().where((Task.batch_id == batch_id) & Task.status.in_(wanted))
    if record.spec.env_vars and not waiting.exists():
        masked = msgspec.structs.replace(
            record.spec, env_vars=dict.fromkeys(record.spec.env_vars, MASK)
        )
        spec = msgspec.msgpack.encode(masked)
        Batch.update(spec=spec).where(Batch.id == batch_id).execute()


def request_kill(task_id: int, rev: int) -> TaskRecord | None:
    """Remember that a task is to end, unless it has ended for certain; None where it has."""
    wanted = (*_UNFINISHED, TaskState.LOST.value)
    updated = (
        Task.update(kill_requested=True, rev=rev)
        .where((Task.id == task_id) & Task.status.in_(wanted))
        .execute()
    )
    return task(task_id) if updated else None


def task(task_id: int) -> TaskRecord | None:
    """Return one task."""
    return next(_records(_joined().where(Task.id == task_id)), None)


def unfinished() -> list[TaskRecord]:
    """Return the tasks that have not ended, in the order they were submitted."""
    return list(_records(_joined().where(Task.status.in_(_UNFINISHED)).order_by(Task.id)))


def script_of(batch_id: int) -> bytes | None:
    """Return the script that a batch runs."""
    content = Batch.select(Batch.script).where(Batch.id == batch_id).scalar()
    return None if content is None else bytes(content)


def tasks(
    *,
    limit: int,
    before: int | None = None,
    state: TaskState | None = None,
    node: str | None = None,
    batch: int | None = None,
    name: str | None = None,
    owner: str | None = None,
) -> list[TaskRecord]:
    """Return at most `limit` tasks older than `before`, newest first."""
    wanted = {
        Task.status: None if state is None else state.value,
        Task.node: node,
        Task.batch_id: batch,
        Task.name: name,
        Task.owner: owner,
    }
    query = _joined().order_by(Task.id.desc()).limit(limit)
    for column, value in wanted.items():
        if value is not None:
            query = query.where(column == value)
    if before is not None:
        query = query.where(Task.id < before)
    return list(_records(query))


def changed_tasks(after: int, limit: int) -> list[TaskRecord]:
    """Return at most `limit` tasks changed since rev `after`, in the order of change."""
    return list(_records(_joined().where(Task.rev > after).order_by(Task.rev).limit(limit)))


def nodes() -> list[NodeRecord]:
    """Return all nodes."""
    return [
        NodeRecord(
            name=row.name,
            rev=row.rev,
            uid=row.uid,
            info=msgspec.json.decode(row.info, type=NodeInfo),
            last_heartbeat=row.last_heartbeat,
            draining=bool(row.draining),
        )
        for row in Node.select().order_by(Node.name)
    ]


def save_node(record: NodeRecord) -> None:
    """Insert or replace a node."""
    Node.replace(
        name=record.name,
        rev=record.rev,
        uid=record.uid,
        info=msgspec.json.encode(record.info).decode(),
        last_heartbeat=record.last_heartbeat,
        draining=record.draining,
    ).execute()


def _joined() -> Any:
    return Task.select(*_JOINED).join(Batch, on=(Task.batch_id == Batch.id))


def _records(query: Any) -> Iterator[TaskRecord]:
    rows: Iterable[dict[str, Any]] = query.dicts()
    for row in rows:
        yield TaskRecord(
            id=row["id"],
            placement=Placement(
                batch_id=row["batch_id"],
                batch_index=row["batch_index"],
                batch_size=row["batch_size"],
                cpus=msgspec.json.decode(row["cpus"], type=tuple[int, ...]),
                numa_node=row["numa_node"],
            ),
            spec=_SPEC.decode(row["spec"]),
            rev=row["rev"],
            owner=row["owner"],
            status=TaskState(row["status"]),
            node=row["node"],
            reason=row["reason"],
            exit_code=row["exit_code"],
            kill_requested=bool(row["kill_requested"]),
            submitted_at=row["submitted_at"],
            started_at=row["started_at"],
            completed_at=row["completed_at"],
            stdout_path=row["stdout_path"],
            stderr_path=row["stderr_path"],
        )
