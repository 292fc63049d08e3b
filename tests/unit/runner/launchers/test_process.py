from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hakuriver.errors import StartError
from hakuriver.runner.launchers.base import Running, StartOrder
from hakuriver.runner.launchers.process import ProcessLauncher, shut_down
from support.runner_tools import (
    PATH,
    KeeperClient,
    alive,
    end_keeper,
    eventually,
    keeper_pid,
    records,
    task_tree,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from hakuriver.model.tasks import Usage
    from hakuriver.runner.exits import ExitRecord


class Heard:
    """A watcher that notes everything."""

    def __init__(self) -> None:
        self.running: dict[int, Running] = {}
        self.over: dict[int, ExitRecord | None] = {}
        self.gone: list[int] = []

    def started(self, running: Running) -> None:
        self.running[running.id] = running

    def measured(self, task_id: int, usage: Usage) -> None:
        """Nothing measures here."""

    def finished(self, task_id: int, record: ExitRecord | None) -> None:
        self.over[task_id] = record

    def vanished(self, task_ids: Iterable[int]) -> None:
        self.gone.extend(task_ids)


def order(folder: Path, task_id: int, *argv: str, **changes: Any) -> StartOrder:
    fields: dict[str, Any] = {
        "id": task_id,
        "argv": argv,
        "env": {"PATH": PATH, "HAKURIVER_TASK_ID": str(task_id)},
        "cwd": "/",
        "stdout": str(folder / f"{task_id}.out"),
        "stderr": str(folder / f"{task_id}.err"),
        "cpus": (),
        "numa_node": None,
        "grace": 1.0,
    }
    return StartOrder(**{**fields, **changes})


@contextlib.asynccontextmanager
async def launching(folder: Path) -> AsyncIterator[tuple[ProcessLauncher, Heard]]:
    """A launcher with its keeper, which ends with it."""
    folder.mkdir(exist_ok=True)
    launcher, heard = ProcessLauncher(folder), Heard()
    await launcher.open(heard)
    try:
        yield launcher, heard
    finally:
        await launcher.close()
        pid = keeper_pid(folder)
        if pid is not None:
            await asyncio.to_thread(end_keeper, folder, pid)


@pytest.mark.asyncio
async def test_a_task_is_started_watched_and_its_end_told(tmp_path: Path) -> None:
    async with launching(tmp_path / "k") as (launcher, heard):
        text = "ünï 'x'\n$HOME"
        await launcher.start(order(tmp_path, 1, "printf", "%s", text))
        await eventually(lambda: 1 in heard.over)
        record = heard.over[1]
        assert record is not None
        assert record.exit_code == 0
        assert record.started_at == heard.running[1].started_at
        assert (tmp_path / "1.out").read_text() == text


@pytest.mark.asyncio
async def test_the_keeper_has_none_of_the_runners_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HAKURIVER_SECURITY_RUNNER_TOKEN", "hunter2")
    monkeypatch.setenv("HAKURIVER_TASK_ID", "77")
    async with launching(tmp_path / "k") as (launcher, heard):
        pid = keeper_pid(tmp_path / "k")
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        assert not [line for line in environment if b"hunter2" in line]
        # Of a runner in a task the keeper is a part of that task.
        assert b"HAKURIVER_TASK_ID=77" in environment
        await launcher.start(order(tmp_path, 1, "env"))
        await eventually(lambda: 1 in heard.over)
        assert set((tmp_path / "1.out").read_text().splitlines()) == {
            f"PATH={PATH}",
            "HAKURIVER_TASK_ID=1",
        }


@pytest.mark.asyncio
async def test_a_kill_ends_a_task(tmp_path: Path) -> None:
    async with launching(tmp_path / "k") as (launcher, heard):
        await launcher.start(order(tmp_path, 1, "sh", "-c", "setsid sleep 1000 & sleep 1000"))
        await eventually(lambda: 1 in heard.running)
        tree = task_tree(heard.running[1].pid, 3)
        await launcher.kill(1, grace=5.0)
        await eventually(lambda: 1 in heard.over)
        assert heard.over[1]
        assert heard.over[1].cause == "killed"
        assert not [pid for pid in tree if alive(pid)]


@pytest.mark.asyncio
async def test_the_next_launcher_takes_over_what_runs(tmp_path: Path) -> None:
    folder = tmp_path / "k"
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    async with launching(folder) as (launcher, heard):
        await launcher.start(order(tmp_path, 1, "sh", "-c", f"read x < {fifo}; exit 4"))
        await eventually(lambda: 1 in heard.running)
        await launcher.close()
        second, later = ProcessLauncher(folder), Heard()
        assert await second.open(later) == {1: heard.running[1]}
        await asyncio.to_thread(fifo.write_text, "go\n")
        await eventually(lambda: 1 in later.over)
        assert later.over[1]
        assert later.over[1].exit_code == 4
        await second.close()


@pytest.mark.asyncio
async def test_the_keepers_death_is_told_and_nothing_survives_it(tmp_path: Path) -> None:
    async with launching(tmp_path / "k") as (launcher, heard):
        script = "setsid sleep 1000 & (setsid sleep 1000 &); sleep 1000"
        await launcher.start(order(tmp_path, 1, "sh", "-c", script))
        await eventually(lambda: 1 in heard.running)
        tree = task_tree(heard.running[1].pid, 4)
        pid = keeper_pid(tmp_path / "k")
        assert pid is not None
        os.kill(pid, 9)
        await eventually(lambda: heard.gone)
        assert heard.gone == [1]
        assert not [pid for pid in tree if alive(pid)]
        # The next start has a new keeper.
        await launcher.start(order(tmp_path, 2, "true"))
        await eventually(lambda: 2 in heard.over)


@pytest.mark.asyncio
async def test_survivors_are_found_by_their_environment(tmp_path: Path) -> None:
    async with launching(tmp_path / "k") as (launcher, heard):
        number = 10**15 + os.getpid()
        await launcher.start(order(tmp_path, number, "sleep", "1000"))
        await eventually(lambda: heard.running)
        await launcher.end_survivors({number: None})
        assert not alive(heard.running[number].pid)
        await eventually(lambda: heard.over)


@pytest.mark.asyncio
async def test_a_keeper_that_goes_at_the_same_moment_is_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "k"
    folder.mkdir()
    for number in range(10):
        async with launching(folder) as (launcher, heard):
            await launcher.start(order(tmp_path, number, "true"))
            await eventually(heard.over.copy)
            # Idle keepers go when their runner leaves, while the next one is dialling.
            await launcher.close()
            async with launching(folder):
                pass


@pytest.mark.asyncio
async def test_a_keeper_that_cannot_start_is_a_clear_error(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises((StartError, NotADirectoryError)):
        await ProcessLauncher(blocked / "k").open(Heard())
    launcher = ProcessLauncher(tmp_path / "k", python="/bin/false")
    with pytest.raises(StartError, match="keeper"):
        await launcher.open(Heard())


@pytest.mark.asyncio
async def test_shut_down_ends_tasks_and_keeper(tmp_path: Path) -> None:
    folder = tmp_path / "k"
    async with launching(folder) as (launcher, heard):
        await launcher.start(order(tmp_path, 1, sys.executable, "-c", "input() or 1", cwd="/"))
        await launcher.start(order(tmp_path, 2, "sleep", "1000"))
        await eventually(lambda: 2 in heard.running)
        client = await asyncio.to_thread(KeeperClient, folder)
        await shut_down(folder, grace=1.0)
        await asyncio.to_thread(wait_until, lambda: not alive(client.pid))
        client.close()
        assert not alive(heard.running[2].pid)
        assert 2 in records(folder / "exits.ndjson")
    await shut_down(folder, grace=1.0)
