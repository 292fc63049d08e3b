"""What the store is asked, and the nodes' rows; see `changes` for what changes tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from peewee import SQL, NodeList, fn

from hakuriver.host.records import NodeRecord, Request, TaskRecord
from hakuriver.host.store.changes import UNFINISHED, UNTOLD, raise_rev_floor
from hakuriver.host.store.models import Batch, Meta, Node, Task, database
from hakuriver.model.nodes import NodeInfo
from hakuriver.model.tasks import Origin, Placement, TaskSpec, TaskState, Usage

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_SPEC = msgspec.msgpack.Decoder(TaskSpec)
_USAGE = msgspec.json.Decoder(Usage)
_CPUS = msgspec.json.Decoder(tuple[int, ...])
# Looked up for each row, where a call of the class takes ten times as long.
_STATES = {state.value: state for state in TaskState}
#: By which filters a list is read along an index, the first that are all given; the others only
#: sift what it finds. In the order of how few rows they fit; each is an index of the migrations.
_LEADS: tuple[tuple[str, ...], ...] = (
    ("batch_id",),
    ("name", "status"),
    ("name",),
    ("node", "status"),
    ("owner", "status"),
    ("node", "owner"),
    ("status",),
    ("node",),
    ("owner",),
)
_JOINED = (*Task._meta.sorted_fields, Batch.spec)  # noqa: SLF001
_NAMES = tuple(field.column_name for field in _JOINED)


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
    revs.append(rev_floor())
    ids = [table.select(fn.MAX(table.id)).scalar() or 0 for table in (Task, Batch)]
    return max(revs), max(ids)


def rev_floor() -> int:
    """Return the largest rev of a row that was deleted: what changed before it cannot be told."""
    return int(read_meta("rev_floor") or 0)


def task(task_id: int) -> TaskRecord | None:
    """Return one task."""
    return next(_records(_joined().where(Task.id == task_id)), None)


def unfinished() -> list[TaskRecord]:
    """Return the tasks that have not ended, in the order they were submitted."""
    return list(_records(_joined().where(Task.status.in_(UNFINISHED)).order_by(Task.id)))


def batch(batch_id: int) -> tuple[int, list[TaskRecord]]:
    """Return how many tasks a batch has, 0 if there is none such, and those that may still run."""
    its: Any = Task.batch_id == batch_id
    alive = _joined().where(its & Task.status.in_(UNTOLD)).order_by(Task.id)
    return Task.select().where(its).count(), list(_records(alive))


def shared(submission: int) -> tuple[TaskSpec, bytes | None] | None:
    """Return what the tasks of a submission share, spec and script; None if it is unknown."""
    row = Batch.get_or_none(Batch.id == submission)
    # One that began a batch, but is unknown itself or has no task any more, has no spec.
    if row is None or not row.spec:
        return None
    return _SPEC.decode(row.spec), None if row.script is None else bytes(row.script)


def request(key: str) -> Request | None:
    """Return the submission that bore `key`, None if there was none."""
    row = Batch.get_or_none(Batch.request_key == key)
    if row is None:
        return None
    return Request(key=key, digest=bytes(row.request_digest or b""), reply=bytes(row.reply or b""))


def old_logs(
    *, since: float, before: float, away: Sequence[str], limit: int
) -> list[tuple[int, str | None, float]]:
    """Return at most `limit` tasks that ended between two moments and still have logs.

    The earliest come first, each with its node and the moment; those of nodes `away` are left out.
    """
    query: Any = (
        Task.select(Task.id, Task.node, Task.completed_at)
        .where(
            _ended(before)
            & (Task.completed_at > since)
            & (Task.logs_removed == False)  # noqa: E712 - it makes SQL
            & (Task.node.is_null() | Task.node.not_in(away))
        )
        .order_by(Task.completed_at)
        .limit(limit)
    )
    return list(query.tuples())


def old_tasks(before: float, limit: int) -> list[int]:
    """Return at most `limit` tasks that ended before a moment and have no logs any more."""
    query: Any = (
        Task.select(Task.id)
        .where(_ended(before) & (Task.logs_removed == True))  # noqa: E712
        .order_by(Task.completed_at)
        .limit(limit)
    )
    return [task_id for (task_id,) in query.tuples()]


def _ended(before: float) -> Any:
    # By the host's own clock as well: the end bears the node's, which may be wrong.
    return (
        (Task.completed_at < before) & (Task.submitted_at < before) & Task.status.not_in(UNFINISHED)
    )


def script_of(submission: int) -> bytes | None:
    """Return the script that the tasks of a submission run."""
    content = Batch.select(Batch.script).where(Batch.id == submission).scalar()
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
    status = None if state is None else state.value
    wanted = {"batch_id": batch, "name": name, "status": status, "node": node, "owner": owner}
    given = {column: value for column, value in wanted.items() if value is not None}
    lead = next((each for each in _LEADS if given.keys() >= set(each)), ())
    query = _joined().order_by(Task.id.desc()).limit(limit)
    for name_of, value in given.items():
        column = Task._meta.fields[name_of]  # noqa: SLF001
        # SQLite uses no index for a column with a sign before it.
        query = query.where((column if name_of in lead else NodeList((SQL("+"), column))) == value)
    if before is not None:
        query = query.where(Task.id < before)
    return list(_records(query))


def changed_tasks(after: int, reached: int, limit: int) -> list[TaskRecord]:
    """Return at most `limit` tasks last changed between two revs, in the order of change."""
    wanted = (Task.rev > after) & (Task.rev <= reached)
    return list(_records(_joined().where(wanted).order_by(Task.rev).limit(limit)))


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


def forget_node(name: str, rev: int) -> None:
    """Delete a node; `rev` is remembered, since no row bears this change."""
    Node.delete().where(Node.name == name).execute()
    raise_rev_floor(rev)


def _joined() -> Any:
    its = fn.COALESCE(Task.submission_id, Task.batch_id)
    return Task.select(*_JOINED).join(Batch, on=(its == Batch.id))


def _records(query: Any) -> Iterator[TaskRecord]:
    # A submission's tasks share what they run: a large one is held once, not for each.
    specs: dict[int, TaskSpec] = {}
    # The rows as SQLite has them: Peewee would convert each value to the type that it has already.
    for values in database.execute(query):
        row = dict(zip(_NAMES, values, strict=True))
        batch_id, own_id = row["batch_id"], row["submission_id"]
        placement = Placement(
            batch_id=batch_id if own_id is None else own_id,
            batch_index=row["batch_index"],
            batch_size=row["batch_size"],
            cpus=_CPUS.decode(row["cpus"]),
            numa_node=row["numa_node"],
            joined_id=None if own_id is None else batch_id,
        )
        spec = specs.get(placement.batch_id)
        if spec is None:
            spec = specs[placement.batch_id] = _SPEC.decode(row["spec"])
        yield TaskRecord(
            id=row["id"],
            placement=placement,
            origin=Origin(
                owner=row["owner"],
                submitted_at=row["submitted_at"],
                targeted=bool(row["targeted"]),
                retry_of=row["retry_of"],
            ),
            spec=spec,
            rev=row["rev"],
            status=_STATES[row["status"]],
            node=row["node"],
            reason=row["reason"],
            exit_code=row["exit_code"],
            kill_requested=bool(row["kill_requested"]),
            started_at=row["started_at"],
            completed_at=row["completed_at"],
            stdout_path=row["stdout_path"],
            stderr_path=row["stderr_path"],
            unit=row["unit"],
            usage=None if row["usage"] is None else _USAGE.decode(row["usage"]),
            logs_removed=bool(row["logs_removed"]),
        )
