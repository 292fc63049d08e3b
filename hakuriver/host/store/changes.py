"""The statements that change tasks. Each function belongs inside a transaction.

Every change of a row gives it a new `rev`, a number that grows over all rows, so that "what
changed since" is one indexed query. These run several times for each task, so they are plain SQL,
written once, where a query builder would take longer than the database.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec

from hakuriver.errors import InvalidRequest
from hakuriver.host.store.models import database
from hakuriver.model import tasks
from hakuriver.model.tasks import FINAL, TaskSpec, TaskState, sources_of
from hakuriver.model.views import MASK

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hakuriver.host.records import Request, TaskRecord
    from hakuriver.model.tasks import Placement

UNFINISHED = tuple(state.value for state in tasks.UNFINISHED)
#: States whose task may still be told anything of by its node.
UNTOLD = (*UNFINISHED, TaskState.LOST.value)

_COLUMNS = (
    "id",
    "batch_id",
    "batch_index",
    "batch_size",
    "rev",
    "owner",
    "name",
    "status",
    "node",
    "numa_node",
    "cpus",
    "reason",
    "exit_code",
    "kill_requested",
    "submitted_at",
    "started_at",
    "completed_at",
    "stdout_path",
    "stderr_path",
    "unit",
    "targeted",
    "retry_of",
    "usage",
    "logs_removed",
    "submission_id",
)
_INSERT = f"INTO task ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"


def insert_batch(
    records: Sequence[TaskRecord], script: bytes | None, request: Request | None
) -> None:
    """Insert the tasks of one submission and what they share; all or none.

    Raises:
        InvalidRequest: the batch that they are to join is not there, or is another owner's.
    """
    first = records[0]
    # Of a request that was answered before, nothing else counts.
    _insert_shared(first, script, request, "")
    if first.placement.joined_id is not None:
        _check_joined(first.placement.joined_id, first.origin.owner)
    database.connection().executemany(f"INSERT {_INSERT}", map(_row, records))


def adopt(record: TaskRecord, script: bytes | None) -> bool:
    """Insert a task that only its node knew, with its batch if that is unknown too."""
    if record.placement.joined_id is not None:
        # The submission that began the batch may be told of later, or never.
        begun = "INSERT OR IGNORE INTO batch (id, spec) VALUES (?, x'')"
        _execute(begun, (record.placement.joined_id,))
    known = " ON CONFLICT (id) DO UPDATE SET spec = excluded.spec, script = excluded.script "
    _insert_shared(record, script, None, f"{known} WHERE batch.spec = x''")
    return _execute(f"INSERT OR IGNORE {_INSERT}", _row(record)) == 1


def _insert_shared(
    first: TaskRecord, script: bytes | None, request: Request | None, clash: str
) -> None:
    _execute(
        "INSERT INTO batch (id, spec, script, request_key, request_digest, reply) "  # noqa: S608
        f"VALUES (?, ?, ?, ?, ?, ?){clash}",
        (
            first.placement.batch_id,
            msgspec.msgpack.encode(first.spec),
            script,
            request and request.key,
            request and request.digest,
            request and request.reply,
        ),
    )


def _check_joined(batch_id: int, owner: str) -> None:
    # The sign keeps SQLite from the index of owners, which fits more rows.
    its = "SELECT 1 FROM task WHERE batch_id = ? AND +owner = ? LIMIT 1"
    if database.execute_sql(its, (batch_id, owner)).fetchone() is None:
        raise InvalidRequest("batch_id", f"you have no batch {batch_id} that it could join")


def _row(record: TaskRecord) -> tuple[object, ...]:
    place, origin = record.placement, record.origin
    return (
        record.id,
        place.batch,
        place.batch_index,
        place.batch_size,
        record.rev,
        origin.owner,
        record.spec.name,
        record.status.value,
        record.node,
        place.numa_node,
        to_json(place.cpus),
        record.reason,
        record.exit_code,
        record.kill_requested,
        origin.submitted_at,
        record.started_at,
        record.completed_at,
        record.stdout_path,
        record.stderr_path,
        record.unit,
        origin.targeted,
        origin.retry_of,
        None if record.usage is None else to_json(record.usage),
        record.logs_removed,
        None if place.joined_id is None else place.batch_id,
    )


def to_json(value: object) -> str:
    """Return what a column of JSON holds."""
    return msgspec.json.encode(value).decode()


def columns(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns that hold these fields of a record."""
    values = dict(fields)
    if "placement" in values:
        values["cpus"] = to_json(values.pop("placement").cpus)
    if values.get("usage") is not None:
        values["usage"] = to_json(values["usage"])
    return values


def transition(
    record: TaskRecord,
    to: TaskState,
    rev: int,
    *,
    only_from: TaskState | None = None,
    of_node: str | None = None,
    **changes: Any,
) -> bool:
    """Enter a state if that is legal, in one conditional update; False where it was not.

    `only_from` narrows the states it may be entered from. `of_node` makes it conditional on the
    task's node too: a runner speaks for its own tasks. With the last of its tasks, a
    submission loses the values of its environment.
    """
    statement = _transition(to, only_from, tuple(changes), conditional=of_node is not None)
    condition = () if of_node is None else (of_node,)
    entered = _execute(statement, (to.value, rev, *changes.values(), record.id, *condition)) == 1
    if entered and record.spec.env_vars and to in FINAL and to is not TaskState.LOST:
        _erase_environment(record.placement, record.spec)
    return entered


@lru_cache(maxsize=64)
def _transition(
    to: TaskState, only_from: TaskState | None, columns: tuple[str, ...], *, conditional: bool
) -> str:
    legal = [state.value for state in sources_of(to) if only_from in (None, state)]
    changes = "".join(f", {column} = ?" for column in columns)
    node = " AND node = ?" if conditional else ""
    return (
        f"UPDATE task SET status = ?, rev = ?{changes} "  # noqa: S608 - our own names alone
        f"WHERE id = ? AND status IN ({_listed(legal)}){node}"
    )


def _erase_environment(place: Placement, spec: TaskSpec) -> None:
    """Mask the values of the environment if no task of the submission may need them any more."""
    # Both ways, whichever `place` says it is: a runner may have told it, and not truly.
    waiting = " UNION ALL ".join(
        f"SELECT 1 FROM task WHERE {its} AND status IN ({_listed(UNTOLD)})"  # noqa: S608
        for its in ("submission_id = ?", "batch_id = ? AND submission_id IS NULL")
    )
    its_own = (place.batch_id, place.batch_id)
    if database.execute_sql(f"{waiting} LIMIT 1", its_own).fetchone() is not None:
        return
    masked = msgspec.structs.replace(spec, env_vars=dict.fromkeys(spec.env_vars, MASK))
    values = (msgspec.msgpack.encode(masked), place.batch_id)
    _execute("UPDATE batch SET spec = ? WHERE id = ?", values)


def request_kill(task_id: int, rev: int) -> bool:
    """Remember that a task is to end, unless it has ended for certain; False where it has."""
    statement = (
        "UPDATE task SET kill_requested = 1, rev = ? "  # noqa: S608
        f"WHERE id = ? AND status IN ({_listed(UNTOLD)})"
    )
    return _execute(statement, (rev, task_id)) == 1


def mark_logs_removed(task_ids: Sequence[int], node: str | None) -> None:
    """Remember that the logs of these tasks, of one node, are gone; those that run keep theirs."""
    database.connection().executemany(
        "UPDATE task SET logs_removed = 1 "  # noqa: S608
        f"WHERE id = ? AND node IS ? AND status NOT IN ({_listed(UNFINISHED)})",
        [(task_id, node) for task_id in task_ids],
    )


def delete_tasks(task_ids: Sequence[int]) -> int:
    """Delete tasks, and what they shared where nobody shares it any more; return their last rev.

    That rev is remembered, since no row bears it any more. Of a submission whose own tasks are all
    gone, but whose batch has others, the id alone is left: a repetition of it makes tasks again.
    """
    connection = database.connection()
    ids, marks = tuple(task_ids), ", ".join("?" * len(task_ids))
    chosen = f"WHERE id IN ({marks}) AND status NOT IN ({_listed(UNFINISHED)})"
    batches = (
        f"SELECT batch_id FROM task {chosen} UNION "  # noqa: S608
        f"SELECT submission_id FROM task {chosen} AND submission_id IS NOT NULL"
    )
    shared = database.execute_sql(batches, ids * 2).fetchall()
    highest = f"SELECT coalesce(max(rev), 0) FROM task {chosen}"  # noqa: S608
    last = int(database.execute_sql(highest, ids).fetchone()[0])
    _execute(f"DELETE FROM task {chosen}", ids)  # noqa: S608
    connection.executemany(
        "DELETE FROM batch WHERE id = ? "
        "AND NOT EXISTS (SELECT 1 FROM task WHERE batch_id = batch.id) "
        "AND NOT EXISTS (SELECT 1 FROM task WHERE submission_id = batch.id)",
        shared,
    )
    connection.executemany(
        "UPDATE batch SET spec = x'', script = NULL, "
        "request_key = NULL, request_digest = NULL, reply = NULL WHERE id = ? AND spec != x'' "
        "AND NOT EXISTS (SELECT 1 FROM task WHERE batch_id = batch.id AND submission_id IS NULL) "
        "AND NOT EXISTS (SELECT 1 FROM task WHERE submission_id = batch.id)",
        shared,
    )
    raise_rev_floor(last)
    return last


def raise_rev_floor(rev: int) -> None:
    """Remember that a row that bore `rev` is gone: what changed up to then cannot be told."""
    _execute(
        "INSERT INTO meta (key, value) VALUES ('rev_floor', ?) ON CONFLICT (key) DO UPDATE "
        "SET value = max(CAST(value AS INTEGER), CAST(excluded.value AS INTEGER))",
        (str(rev),),
    )


def _listed(words: Sequence[str]) -> str:
    return ", ".join(f"'{word}'" for word in words)


def _execute(statement: str, values: Sequence[object]) -> int:
    """Run a statement and return how many rows it changed."""
    return int(database.execute_sql(statement, tuple(values)).rowcount)
