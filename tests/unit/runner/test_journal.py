from __future__ import annotations

import asyncio
import errno
import os
import stat
from typing import TYPE_CHECKING, Any

import pytest

from hakuriver.model.tasks import Exit, TaskState
from hakuriver.runner.journal import Journal
from hakuriver.runner.launchers.base import Running
from hakuriver.runner.records import Began, Ended, Entry, Forgotten, KillAsked, Launched
from support.runner_tools import eventually, launch

if TYPE_CHECKING:
    from pathlib import Path


def launched(task_id: int, **changes: Any) -> Launched:
    message = launch(task_id, "true", **changes)
    return Launched(task_id=task_id, spec=message.spec, placement=message.placement, boot_id="b")


RUNNING = Running(id=1, pid=10, start=20, started_at=1.5)
END = Exit(status=TaskState.COMPLETED, exit_code=0, completed_at=2.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.ndjson"


async def reread(path: Path) -> dict[int, Entry]:
    journal = await Journal.open(path)
    entries = journal.entries
    await journal.close()
    return entries


@pytest.mark.asyncio
async def test_what_was_appended_is_read_again(path: Path) -> None:
    journal = await Journal.open(path)
    first = launched(1, script=b"\x00\xff\n", env_vars={"A": "ü\n"}, cpus=(3,), numa_node=1)
    await journal.append_durably(first)
    await journal.append_durably(launched(2))
    await journal.append_durably(KillAsked(task_id=3))
    journal.append_lazily(Began(task_id=1, running=RUNNING))
    journal.append_lazily(Ended(task_id=1, exit=END))
    expected = {
        1: Entry(launch=first, running=RUNNING, exit=END),
        2: Entry(launch=launched(2)),
        3: Entry(kill=True),
    }
    assert journal.entries == expected
    await journal.close()
    assert await reread(path) == expected
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.asyncio
async def test_a_durable_append_is_on_the_disk_when_it_returns(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[bytes] = []

    def sync(descriptor: int) -> None:
        synced.append(path.read_bytes())
        real(descriptor)

    real = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", sync)
    journal = await Journal.open(path)
    await journal.append_durably(launched(1))
    assert b'"task_id":1' in synced[-1]
    journal.append_lazily(Began(task_id=1, running=RUNNING))
    await eventually(lambda: b"Began" in path.read_bytes())
    assert len(synced) == 1
    await journal.close()


@pytest.mark.asyncio
async def test_many_appends_share_few_syncs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = 0
    real = os.fdatasync

    def sync(descriptor: int) -> None:
        nonlocal count
        count += 1
        real(descriptor)

    monkeypatch.setattr(os, "fdatasync", sync)
    journal = await Journal.open(path)
    await asyncio.gather(*(journal.append_durably(launched(n)) for n in range(500)))
    assert count <= 3
    assert len(journal.entries) == 500
    await journal.close()


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "torn",
    [b'{"type":"Forg', b'{"type":"Forgotten","task_id":1}', b"\x00" * 9, b'{"type":"\xff"}\n'],
)
async def test_a_torn_last_record_is_cut_off(path: Path, torn: bytes) -> None:
    journal = await Journal.open(path)
    await journal.append_durably(launched(1))
    await journal.close()
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    journal = await Journal.open(path)
    assert journal.entries == {1: Entry(launch=launched(1))}
    assert path.read_bytes() == whole
    await journal.append_durably(launched(2))
    await journal.close()
    assert set(await reread(path)) == {1, 2}


@pytest.mark.asyncio
async def test_a_forgotten_tasks_secrets_leave_the_disk(path: Path) -> None:
    journal = await Journal.open(path)
    await journal.append_durably(launched(1, env_vars={"KEY": "s3cret"}))
    await journal.append_durably(launched(2))
    assert b"s3cret" in path.read_bytes()
    journal.append_lazily(Forgotten(task_id=1))
    await eventually(lambda: b"s3cret" not in path.read_bytes(), seconds=5)
    await journal.append_durably(launched(3))
    await journal.close()
    assert set(await reread(path)) == {2, 3}


@pytest.mark.asyncio
async def test_closing_drops_what_counts_no_more(path: Path) -> None:
    journal = await Journal.open(path)
    await journal.append_durably(launched(1, env_vars={"KEY": "s3cret"}))
    journal.append_lazily(Forgotten(task_id=1))
    await journal.close()
    assert path.read_bytes() == b""


@pytest.mark.asyncio
async def test_rewriting_while_appending_loses_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hakuriver.runner.journal._LARGE", 2000)
    journal = await Journal.open(path)

    async def one(number: int) -> None:
        await journal.append_durably(launched(number))
        journal.append_lazily(Began(task_id=number, running=RUNNING))
        if number % 3:
            journal.append_lazily(Ended(task_id=number, exit=END))
            await asyncio.sleep(0)
            journal.append_lazily(Forgotten(task_id=number))

    for start in range(0, 300, 20):
        await asyncio.gather(*(one(number) for number in range(start, start + 20)))
    await journal.close()
    entries = await reread(path)
    assert set(entries) == set(range(0, 300, 3))
    assert all(entry.running == RUNNING for entry in entries.values())


@pytest.mark.asyncio
async def test_a_full_disk_refuses_and_corrupts_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = await Journal.open(path)
    await journal.append_durably(launched(1))
    real = os.pwrite

    def full(descriptor: int, data: bytes, offset: int) -> int:
        real(descriptor, data[:10], offset)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space"):
        await journal.append_durably(launched(2))
    journal.append_lazily(Began(task_id=1, running=RUNNING))
    await eventually(lambda: journal._writer is None)
    monkeypatch.setattr(os, "pwrite", real)
    assert 2 not in journal.entries
    await journal.append_durably(launched(3))
    await journal.close()
    entries = await reread(path)
    assert set(entries) == {1, 3}
    assert entries[1].running == RUNNING


@pytest.mark.asyncio
async def test_what_is_in_memory_alone_is_not_called_written(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = await Journal.open(path)
    await journal.append_durably(launched(1))
    real = os.pwrite

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    journal.append_lazily(Began(task_id=1, running=RUNNING))
    assert not await journal.written()
    monkeypatch.setattr(os, "pwrite", real)
    # Later records are written again; that one is not, until the whole is rewritten.
    await journal.append_durably(launched(2))
    assert not await journal.written()
    await journal._compact()
    assert await journal.written()
    assert (await reread(path))[1].running == RUNNING
    await journal.close()
