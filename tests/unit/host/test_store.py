from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec
import peewee
import pytest

from hakuriver.errors import StoreError
from hakuriver.host.records import NodeRecord
from hakuriver.host.store import queries
from hakuriver.model.tasks import FINAL, LEGAL, Origin, TaskSpec, TaskState, Usage
from hakuriver.model.views import MASK
from support.host_rows import ask_kill, get, insert, move, records, statement, walk
from support.host_world import Commits, node_info

if TYPE_CHECKING:
    from pathlib import Path

    from hakuriver.host.store import Store


PENDING, ASSIGNING, RUNNING = TaskState.PENDING, TaskState.ASSIGNING, TaskState.RUNNING
COMPLETED, LOST = TaskState.COMPLETED, TaskState.LOST
SECRET = "hunter2-that-nobody-else-says"


# -- what is written can be read ----------------------------------------------------------


@pytest.mark.asyncio
async def test_a_task_is_read_as_it_was_written(store: Store) -> None:
    spec = TaskSpec(
        command="c",
        arguments=("", "a b", "é\n"),
        env_vars={"A": "1"},
        required_cores=3,
        required_memory_bytes=1 << 40,
        time_limit_seconds=1.5,
        working_directory="/w",
        use_private_pid=True,
        name="n",
    )
    record = records(store, spec=spec, first=(1 << 62) + 1)[0]
    place = msgspec.structs.replace(record.placement, cpus=(3, 5), numa_node=1)
    record = msgspec.structs.replace(record, placement=place)
    await insert(store, [record], None)
    assert await get(store, record.id) == record


@pytest.mark.asyncio
async def test_every_column_is_read_in_the_type_that_it_was_written_in(store: Store) -> None:
    record = msgspec.structs.replace(
        records(store, spec=TaskSpec(command="c", name="n"))[0],
        status=TaskState.KILLED_OOM,
        origin=Origin(owner="o", submitted_at=5.0, targeted=False, retry_of=7),
        node="m",
        reason="r",
        exit_code=-9,
        kill_requested=True,
        started_at=6.0,
        completed_at=7.5,
        stdout_path="/o",
        stderr_path="/e",
        unit="u",
        usage=Usage(cpu_seconds=1.0, numa_memory_bytes={"0": 1}),
        logs_removed=True,
    )
    await insert(store, [record], None)
    # Equal would be 1 and True too, or 5 and 5.0; clients tell them apart.
    assert repr(await get(store, record.id)) == repr(record)


@pytest.mark.asyncio
async def test_a_script_lies_apart(store: Store) -> None:
    script = bytes(range(256)) * 4096
    await insert(store, records(store, 2), script)
    assert await store.read(queries.script_of, 1) == script
    assert (await get(store, 1)).spec.script is None
    assert await store.read(queries.script_of, 2) is None


@pytest.mark.asyncio
async def test_a_batch_is_inserted_whole_or_not_at_all(store: Store) -> None:
    await insert(store, records(store, first=3), None)
    clash = [*records(store, 2, first=1), *records(store, first=3)]
    with pytest.raises(sqlite3.IntegrityError):
        await insert(store, clash, None)
    assert [record.id for record in await store.read(queries.tasks, limit=9)] == [3]


@pytest.mark.asyncio
async def test_nodes_are_inserted_and_replaced(store: Store) -> None:
    node = NodeRecord(
        name="n", rev=4, uid="u", info=node_info(numa={"0": [0, 1]}), last_heartbeat=None
    )
    await store.write(queries.save_node, node)
    changed = msgspec.structs.replace(node, draining=True, last_heartbeat=2.5, rev=5)
    await store.write(queries.save_node, changed)
    assert await store.read(queries.nodes) == [changed]


# -- transitions --------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_only_legal_moves_are_made(store: Store) -> None:
    states = list(TaskState)
    batch = records(store, len(states) ** 2)
    batch = [
        msgspec.structs.replace(record, status=states[index // len(states)])
        for index, record in enumerate(batch)
    ]
    await insert(store, batch, None)
    for index, record in enumerate(batch):
        wish = states[index % len(states)]
        moved = await move(store, record.id, wish, reason="moved")
        now = await get(store, record.id)
        if wish in LEGAL[record.status]:
            assert moved == now
            assert (now.status, now.reason) == (wish, "moved")
            assert now.rev > record.rev
        else:
            assert moved is None
            assert now == record


@pytest.mark.asyncio
async def test_a_move_can_be_narrowed_to_one_source(store: Store) -> None:
    await insert(store, records(store, status=ASSIGNING), None)
    killed = TaskState.KILLED
    assert await move(store, 1, killed, only_from=PENDING) is None
    # Legal moves alone: the narrowing widens nothing.
    assert await move(store, 1, RUNNING, only_from=PENDING) is None
    assert await move(store, 1, killed, only_from=ASSIGNING) is not None


@pytest.mark.asyncio
async def test_a_node_moves_its_own_tasks_alone(store: Store) -> None:
    await insert(store, records(store, status=ASSIGNING), None)
    await insert(store, records(store, first=2, node=None, status=ASSIGNING), None)
    assert await move(store, 1, RUNNING, of_node="other") is None
    assert await move(store, 2, RUNNING, of_node="n") is None
    assert await move(store, 1, RUNNING, of_node="n") is not None


@pytest.mark.asyncio
async def test_an_unknown_task_moves_nowhere(store: Store) -> None:
    assert await move(store, 7, RUNNING) is None
    assert await ask_kill(store, 7) is None


@pytest.mark.asyncio
async def test_of_two_ends_the_first_stays(store: Store) -> None:
    await insert(store, records(store, status=RUNNING), None)
    ends = [move(store, 1, state, reason=state.value) for state in (COMPLETED, LOST)]
    first, second = await asyncio.gather(*ends)
    assert first is not None
    assert second is None
    assert (await get(store, 1)).reason == "completed"


@pytest.mark.asyncio
@pytest.mark.parametrize("state", list(TaskState))
async def test_a_kill_is_remembered_unless_the_task_has_ended_for_certain(
    store: Store, state: TaskState
) -> None:
    await insert(store, records(store, status=state), None)
    asked = await ask_kill(store, 1)
    assert (asked is None) == (state in FINAL - {LOST})
    assert (await get(store, 1)).kill_requested == (asked is not None)


# -- revisions ----------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_every_change_gives_a_row_a_larger_rev(store: Store) -> None:
    await insert(store, records(store, 2), None)
    revs = [store.rev]
    for change in (
        move(store, 1, ASSIGNING),
        ask_kill(store, 1),
        move(store, 2, ASSIGNING),
        move(store, 1, RUNNING),
    ):
        record = await change
        assert record is not None
        revs.append(record.rev)
    assert revs == sorted(set(revs))
    changed = await store.read(queries.changed_tasks, revs[0], revs[-1], 10)
    assert [(record.id, record.rev) for record in changed] == [(2, revs[3]), (1, revs[4])]
    assert await store.read(queries.changed_tasks, revs[-1], revs[-1], 10) == []
    assert len(await store.read(queries.changed_tasks, 0, revs[-1], 1)) == 1
    # What changed after a moment is not told of that moment.
    earlier = await store.read(queries.changed_tasks, revs[0], revs[3], 10)
    assert [record.id for record in earlier] == [2]


# -- lists --------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_filters_and_pages(store: Store) -> None:
    await insert(store, records(store, 3, first=1, spec=TaskSpec(command="c", name="x")), None)
    await insert(store, records(store, 3, first=11, node="m", owner="bob"), None)
    await move(store, 12, ASSIGNING)

    async def ids(**wanted: Any) -> list[int]:
        found = await store.read(queries.tasks, **{"limit": 50} | wanted)
        return [record.id for record in found]

    assert await ids() == [13, 12, 11, 3, 2, 1]
    assert await ids(limit=2) == [13, 12]
    assert await ids(limit=2, before=12) == [11, 3]
    assert await ids(before=1) == []
    assert await ids(state=ASSIGNING) == [12]
    assert await ids(node="n") == [3, 2, 1]
    assert await ids(batch=11, state=PENDING) == [13, 11]
    assert await ids(name="x", limit=1) == [3]
    assert await ids(owner="bob", before=13) == [12, 11]
    assert await ids(name="' OR 1=1 --") == []


@pytest.mark.asyncio
async def test_the_unfinished_come_in_the_order_of_submission(store: Store) -> None:
    await insert(store, records(store, 4, first=5), None)
    await insert(store, records(store, 2, first=1), None)
    await walk(store, 6, ASSIGNING, RUNNING, COMPLETED)
    await walk(store, 1, ASSIGNING, RUNNING)
    assert [record.id for record in await store.read(queries.unfinished)] == [1, 2, 5, 7, 8]


# -- group commit -------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_many_changes_share_one_commit(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    commits = Commits(store, monkeypatch)
    waiting = [insert(store, records(store, first=first), None) for first in range(1, 401)]
    await asyncio.gather(*waiting)
    assert len(await store.read(queries.tasks, limit=1000)) == 400
    assert commits.count < 100


@pytest.mark.asyncio
async def test_one_change_that_fails_is_undone_alone(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await insert(store, records(store, first=50), None)
    commits = Commits(store, monkeypatch)
    blocker = store._writer.submit(lambda: None)
    groups = [insert(store, records(store, first=first), None) for first in (1, 50, 2)]
    ends = await asyncio.gather(*groups, return_exceptions=True)
    await blocker
    assert [type(end) for end in ends] == [type(None), peewee.IntegrityError, type(None)]
    assert [record.id for record in await store.read(queries.tasks, limit=9)] == [50, 2, 1]
    assert commits.count <= 3


@pytest.mark.asyncio
async def test_a_fault_of_ours_reaches_its_caller_and_stops_nothing(store: Store) -> None:
    def faulty() -> None:
        raise ZeroDivisionError

    bad, good = store._writer.submit(faulty), insert(store, records(store), None)
    with pytest.raises(ZeroDivisionError):
        await bad
    await good


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "fault",
    [
        peewee.ProgrammingError("no such table"),
        peewee.InterfaceError("bad"),
        sqlite3.DatabaseError("malformed"),
        sqlite3.OperationalError("locked"),
    ],
    ids=repr,
)
async def test_a_fault_of_the_database_is_told_as_such_and_ends_no_thread(
    store: Store, fault: Exception
) -> None:
    def faulty() -> None:
        raise fault

    with pytest.raises(StoreError, match=str(fault)):
        await store.write(faulty)
    await insert(store, records(store))
    assert (await get(store, 1)).status is PENDING


@pytest.mark.asyncio
async def test_whoever_stopped_waiting_stops_nothing(store: Store) -> None:
    insert(store, records(store), None).cancel()
    await insert(store, records(store, first=2), None)
    assert len(await store.read(queries.tasks, limit=9)) == 2


@pytest.mark.asyncio
async def test_a_commit_that_fails_is_told_to_the_whole_group_and_the_next_one_works(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits = Commits(store, monkeypatch)
    # A group that fails is tried once more, each of its changes by itself.
    commits.failing = 2
    with pytest.raises(StoreError, match="full"):
        await insert(store, records(store), None)
    assert await store.read(queries.task, 1) is None
    await insert(store, records(store), None)
    assert (await get(store, 1)).status is PENDING


@pytest.mark.asyncio
async def test_a_full_disk_is_told_and_overcome(store: Store) -> None:
    def limit(pages: int) -> None:
        statement(store._database, f"PRAGMA max_page_count = {pages}")

    await store._writer.submit(lambda: limit(1))
    with pytest.raises(StoreError, match="full"):
        await insert(store, records(store), bytes(1 << 20))
    assert await store.read(queries.tasks, limit=9) == []
    await store._writer.submit(lambda: limit(1 << 30))
    await insert(store, records(store), bytes(1 << 20))
    assert (await get(store, 1)).status is PENDING


# -- secrets ------------------------------------------------------------------------------


def traces_of_secret(folder: Path) -> Counter[str]:
    """Return how often the secret stands in each file of `folder`."""
    found = {path.name: path.read_bytes().count(SECRET.encode()) for path in folder.iterdir()}
    return +Counter(found)


@pytest.mark.asyncio
async def test_values_of_the_environment_are_erased_with_the_batchs_last_end(
    store: Store, tmp_path: Path
) -> None:
    folder = tmp_path / "deep" / "er"
    spec = TaskSpec(command="c", env_vars={"TOKEN": SECRET})
    await insert(store, records(store, 3, spec=spec), None)
    for task_id in (1, 2, 3):
        await walk(store, task_id, ASSIGNING, RUNNING)
    await walk(store, 1, COMPLETED)
    await walk(store, 2, LOST)
    await walk(store, 3, TaskState.FAILED)
    # The lost one may still run and be told of again.
    assert (await get(store, 1)).spec.env_vars == {"TOKEN": SECRET}
    await walk(store, 2, TaskState.KILLED_OOM)
    for task_id in (1, 2, 3):
        assert (await get(store, task_id)).spec.env_vars == {"TOKEN": MASK}

    def checkpoint() -> None:
        statement(store._database, "PRAGMA wal_checkpoint(TRUNCATE)")

    # Outside of the writer's transaction.
    await store.read(checkpoint)
    assert traces_of_secret(folder) == Counter()


@pytest.mark.asyncio
async def test_another_batchs_values_stay(store: Store) -> None:
    spec = TaskSpec(command="c", env_vars={"TOKEN": SECRET})
    await insert(store, records(store, first=1, spec=spec), None)
    await insert(store, records(store, first=2, spec=spec), None)
    await walk(store, 1, ASSIGNING, COMPLETED)
    assert (await get(store, 1)).spec.env_vars == {"TOKEN": MASK}
    assert (await get(store, 2)).spec.env_vars == {"TOKEN": SECRET}
