"""What version 2 of the store added: keys, adoption, removal, and what is remembered of it."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from typing import TYPE_CHECKING

import msgspec
import peewee
import pytest

from hakuriver.host.records import NodeRecord, Request
from hakuriver.host.store import Store, changes, queries
from hakuriver.model.tasks import FINAL, Origin, TaskSpec, TaskState, Usage
from hakuriver.model.views import MASK
from support.host_rows import get, insert, move, record_of, records, statement, walk
from support.host_world import node_info, until

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from hakuriver.host.records import TaskRecord

pytestmark = pytest.mark.asyncio

PENDING, ASSIGNING, RUNNING = TaskState.PENDING, TaskState.ASSIGNING, TaskState.RUNNING
COMPLETED, LOST, FAILED = TaskState.COMPLETED, TaskState.LOST, TaskState.FAILED
CLASHES = (sqlite3.IntegrityError, peewee.IntegrityError)


def ended(
    task_id: int, at: float, *, status: TaskState = COMPLETED, node: str | None = "n", rev: int = 1
) -> TaskRecord:
    record = record_of(task_id, status=status, node=node, rev=rev)
    return msgspec.structs.replace(record, completed_at=at)


async def ids_of(store: Store) -> list[int]:
    return [record.id for record in await store.read(queries.tasks, limit=1000)]


# -- what a task bears --------------------------------------------------------------------


async def test_origin_and_usage_are_read_as_they_were_written(store: Store) -> None:
    origin = Origin(owner="bob", submitted_at=1.25, targeted=False, retry_of=(1 << 62) + 1)
    usage = Usage(peak_memory_bytes=1 << 40)
    record = msgspec.structs.replace(
        record_of(1), origin=origin, usage=usage, logs_removed=True, rev=store.next_rev()
    )
    await insert(store, [record])
    assert await get(store, 1) == record


async def test_an_end_tells_what_was_used(store: Store) -> None:
    await insert(store, records(store, status=RUNNING))
    for state, usage in (
        (LOST, None),
        (RUNNING, Usage()),
        (COMPLETED, Usage(peak_memory_bytes=5)),
    ):
        assert await move(store, 1, state, usage=usage)
        assert (await get(store, 1)).usage == usage


# -- keys ---------------------------------------------------------------------------------


async def test_a_key_is_kept_with_its_answer(store: Store) -> None:
    asked = Request(key="k", digest=b"\x00d", reply=b'{"a": 1}')
    await insert(store, records(store), None, asked)
    assert await store.read(queries.request, "k") == asked
    assert await store.read(queries.request, "K") is None


async def test_a_second_batch_of_a_key_is_undone_alone(store: Store) -> None:
    asked = Request(key="k", digest=b"d", reply=b"r")
    first = insert(store, records(store, 2, first=1), b"one", asked)
    second = insert(store, records(store, 2, first=11), b"two", asked)
    third = insert(store, records(store, 1, first=21))
    ends = await asyncio.gather(first, second, third, return_exceptions=True)
    assert (ends[0], ends[2]) == (None, None)
    assert isinstance(ends[1], CLASHES)
    assert await ids_of(store) == [21, 2, 1]
    assert await store.read(queries.script_of, 11) is None


async def test_any_number_of_batches_has_no_key(store: Store) -> None:
    for first in (1, 2, 3):
        await insert(store, records(store, first=first))
    assert await ids_of(store) == [3, 2, 1]


async def test_a_key_is_free_again_when_its_last_task_was_deleted(store: Store) -> None:
    asked = Request(key="k", digest=b"d", reply=b"r")
    await insert(store, records(store, 2, first=1, status=COMPLETED), None, asked)
    await store.write(changes.delete_tasks, [1])
    assert await store.read(queries.request, "k") == asked
    await store.write(changes.delete_tasks, [2])
    assert await store.read(queries.request, "k") is None
    await insert(store, records(store, first=5), None, asked)


# -- adoption -----------------------------------------------------------------------------


async def test_a_task_is_adopted_once(store: Store) -> None:
    record = record_of(7, batch_id=5, index=2, size=3, rev=store.next_rev(), status=ASSIGNING)
    assert await store.write(changes.adopt, record, b"script")
    other = msgspec.structs.replace(record, rev=store.next_rev(), node="m", status=RUNNING)
    assert not await store.write(changes.adopt, other, b"another")
    assert await get(store, 7) == record
    assert await store.read(queries.script_of, 5) == b"script"


async def test_siblings_are_adopted_into_one_batch(store: Store) -> None:
    for index, task_id in enumerate((7, 8, 9)):
        record = record_of(
            task_id, batch_id=5, index=index, size=3, rev=store.next_rev(), status=ASSIGNING
        )
        assert await store.write(changes.adopt, record, b"script")
    batch = (await store.read(queries.tasks, batch=5, limit=9))[::-1]
    assert [(one.id, one.placement.batch_index) for one in batch] == [(7, 0), (8, 1), (9, 2)]


async def test_a_known_batch_stays_as_it_is(store: Store) -> None:
    asked = Request(key="k", digest=b"d", reply=b"r")
    await insert(store, records(store, 2, first=5), b"ours", asked)
    record = record_of(
        99, batch_id=5, rev=store.next_rev(), spec=TaskSpec(command="other"), status=ASSIGNING
    )
    assert await store.write(changes.adopt, record, b"theirs")
    assert await store.read(queries.script_of, 5) == b"ours"
    assert (await get(store, 99)).spec.command == "true"
    assert await store.read(queries.request, "k") == asked


# -- the environment ----------------------------------------------------------------------


async def test_the_last_end_of_a_batch_erases_its_values_whoever_it_is(store: Store) -> None:
    spec = TaskSpec(command="c", env_vars={"A": "secret", "B": ""})
    await insert(store, records(store, 4, spec=spec))
    await walk(store, 1, TaskState.KILLED)
    await walk(store, 2, FAILED)
    await walk(store, 3, ASSIGNING, RUNNING, COMPLETED)
    assert (await get(store, 1)).spec.env_vars == {"A": "secret", "B": ""}
    await walk(store, 4, ASSIGNING, TaskState.KILLED_OOM)
    assert (await get(store, 1)).spec.env_vars == {"A": MASK, "B": MASK}


async def test_an_end_that_was_not_legal_erases_nothing(store: Store) -> None:
    spec = TaskSpec(command="c", env_vars={"A": "secret"})
    await insert(store, records(store, spec=spec, status=RUNNING))
    assert await move(store, 1, COMPLETED, of_node="other") is None
    assert await move(store, 1, COMPLETED, only_from=PENDING) is None
    assert (await get(store, 1)).spec.env_vars == {"A": "secret"}


async def test_an_adopted_end_erases_its_values(store: Store) -> None:
    spec = TaskSpec(command="c", env_vars={"A": "secret"})
    record = record_of(7, rev=store.next_rev(), spec=spec, status=ASSIGNING)
    await store.write(changes.adopt, record, None)
    await walk(store, 7, COMPLETED)
    assert (await get(store, 7)).spec.env_vars == {"A": MASK}


# -- what is old --------------------------------------------------------------------------


async def old(
    store: Store, *, since: float = 0.0, limit: int = 10, away: Sequence[str] = ()
) -> list[int]:
    found = await store.read(queries.old_logs, since=since, before=100.0, away=away, limit=limit)
    return [task_id for task_id, *_ in found]


async def test_old_logs_are_those_of_tasks_that_ended_before(store: Store) -> None:
    for record in (
        ended(1, 99.0),
        ended(2, 50.0, status=LOST),
        ended(3, 100.0),
        ended(4, 1.0, node=None),
        msgspec.structs.replace(ended(5, 2.0), logs_removed=True),
        ended(6, 3.0, node="m"),
        # One that was lost and runs again has no end, and neither have these.
        *(record_of(10 + index, status=state) for index, state in enumerate(TaskState)),
    ):
        await insert(store, [record])
    assert await old(store) == [4, 6, 2, 1]
    assert await old(store, away=["m", "x"]) == [4, 2, 1]
    assert await old(store, limit=2) == [4, 6]
    assert await old(store, since=3.0) == [2, 1]
    assert await store.read(queries.old_logs, since=0.0, before=2.0, away=[], limit=9) == [
        (4, None, 1.0)
    ]


@pytest.mark.parametrize("state", list(TaskState))
async def test_what_has_not_ended_is_never_old(store: Store, state: TaskState) -> None:
    # An end in the past that is no end any more.
    record = msgspec.structs.replace(ended(1, 1.0, status=state), logs_removed=True)
    await insert(store, [record])
    final = record.is_final
    assert await store.read(queries.old_tasks, 100.0, 10) == ([1] if final else [])
    await store.write(
        lambda: statement(store._database, "UPDATE task SET logs_removed = 0 WHERE id = 1")
    )
    assert await old(store) == ([1] if final else [])


async def test_old_tasks_are_those_without_logs(store: Store) -> None:
    for task_id in (1, 2, 3):
        await insert(store, [ended(task_id, 10.0 - task_id)])
    assert await store.read(queries.old_tasks, 100.0, 10) == []
    # The retention is a matter of rows: it tells nobody, and their revs stay.
    before = [(await get(store, task_id)).rev for task_id in (1, 2, 3)]
    await store.write(changes.mark_logs_removed, [1, 3, 77], "n")
    assert [(await get(store, task_id)).rev for task_id in (1, 2, 3)] == before
    assert await store.read(queries.old_tasks, 100.0, 10) == [3, 1]
    assert await store.read(queries.old_tasks, 100.0, 1) == [3]
    assert await store.read(queries.old_tasks, 7.5, 10) == [3]


async def test_a_node_speaks_for_the_logs_of_its_own_ended_tasks_alone(store: Store) -> None:
    for record in (
        ended(1, 9.0, node="m"),
        ended(2, 9.0, node=None),
        ended(3, 9.0),
        *(record_of(10 + index, status=state) for index, state in enumerate(TaskState)),
    ):
        await insert(store, [record])
    every = await ids_of(store)
    await store.write(changes.mark_logs_removed, every, "n")
    removed = [task_id for task_id in every if (await get(store, task_id)).logs_removed]
    assert sorted(removed) == [3, *(10 + i for i, state in enumerate(TaskState) if state in FINAL)]
    await store.write(changes.mark_logs_removed, every, None)
    assert (await get(store, 2)).logs_removed
    assert not (await get(store, 1)).logs_removed


async def test_what_runs_again_is_not_deleted(store: Store) -> None:
    await insert(store, [ended(1, 9.0, status=LOST)])
    await insert(store, [ended(2, 9.0)])
    await move(store, 1, RUNNING)
    await store.write(changes.delete_tasks, [1, 2])
    assert await ids_of(store) == [1]


async def test_deleting_takes_a_batch_with_its_last_task(store: Store) -> None:
    await insert(store, records(store, 3, first=1, status=COMPLETED), b"script")
    await insert(store, records(store, 1, first=11, status=COMPLETED), b"other")
    last = (await get(store, 2)).rev
    assert await store.write(changes.delete_tasks, [1, 2, 4711]) == last
    assert await ids_of(store) == [11, 3]
    assert await store.read(queries.script_of, 1) == b"script"
    await store.write(changes.delete_tasks, [3, 11])
    assert await ids_of(store) == []
    assert await store.read(queries.script_of, 1) is None
    assert await store.read(queries.script_of, 11) is None


async def test_a_thousand_are_deleted_at_once(store: Store) -> None:
    await insert(store, records(store, 1000, status=COMPLETED))
    await store.write(changes.delete_tasks, list(range(1, 1001)))
    assert await ids_of(store) == []


# -- what is gone is remembered -----------------------------------------------------------


async def test_the_floor_of_revs_only_rises(store: Store) -> None:
    first = await store.read(queries.rev_floor)
    assert first == store.rev == store.rev_floor
    for rev, floor in ((-9, 0), (100, 100), (20, 100), (-1, 100)):
        await store.write(changes.raise_rev_floor, first + rev)
        assert await store.read(queries.rev_floor) == first + floor


async def test_the_revs_of_a_new_database_are_larger_than_those_of_one_before(
    tmp_path: Path,
) -> None:
    first = Store(tmp_path / "first.db", cluster_id="c")
    await insert(first, records(first, 5))
    first.close()
    # They begin with the clock: less than one change a millisecond keeps behind it.
    await until(lambda: time.time_ns() // 1_000_000 > first.rev)
    second = Store(tmp_path / "second.db", cluster_id="c")
    try:
        assert second.rev_floor == second.rev > first.rev
        # In JSON a number that every reader holds exactly.
        assert second.rev < 1 << 53
    finally:
        second.close()


async def test_revs_and_floor_are_known_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "host.db"
    first = Store(path, cluster_id="one")
    await insert(first, records(first, 3, status=COMPLETED))
    node = NodeRecord(
        name="n", rev=first.next_rev(), uid="u", info=node_info(), last_heartbeat=None
    )
    await first.write(queries.save_node, node)
    await first.write(changes.delete_tasks, [1, 2, 3])
    last = first.next_rev()
    await first.write(queries.forget_node, "n", last)
    first.close()
    second = Store(path, cluster_id="two")
    try:
        assert (second.rev_floor, second.rev) == (last, last)
        assert second.cluster_id == "one"
        assert await second.read(queries.nodes) == []
    finally:
        second.close()
