from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hakuriver.runner.launchers.processes import look_at
from support.runner_tools import (
    PATH,
    KeeperClient,
    alive,
    fifo,
    keepers,
    records,
    running_keeper,
    task_tree,
    tasks_of,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def keeper(tmp_path: Path) -> Iterator[KeeperClient]:
    with running_keeper(tmp_path / "k") as client:
        yield client


def minder_of(pid: int) -> int:
    process = look_at(pid)
    assert process is not None
    return process.parent


def minders(keeper: KeeperClient) -> set[int]:
    return keepers(keeper.folder) - {keeper.pid}


def test_one_minder_waits_for_the_first_task_and_is_used_again(keeper: KeeperClient) -> None:
    wait_until(lambda: len(minders(keeper)) == 1)
    used: set[int] = set()
    gate = fifo(keeper.folder)
    for number in range(20):
        keeper.start(number, "sh", "-c", "read line < fifo")
        used.add(minder_of(keeper.event("started", number)["pid"]))
        gate.write_text("go\n")
        keeper.event("finished", number)
    assert len(used) <= 2


def test_a_minder_forgets_what_a_task_put_on_it(keeper: KeeperClient, tmp_path: Path) -> None:
    cpus = os.sched_getaffinity(0)
    keeper.run(1, "true", cpus=[max(cpus)], numa_node=0, cwd=str(tmp_path))
    keeper.run(2, "true", cwd="/no/such")
    for number in (3, 4):  # whichever minder it is
        keeper.start(number, "sh", "-c", "pwd; grep Cpus_allowed: /proc/self/status; sleep 0.2")
    for _ in range(2):
        keeper.event("finished")
    for number in (3, 4):
        folder, _, allowed = keeper.out(number).split()
        assert folder.decode() == str(keeper.folder)
        assert int(allowed.replace(b",", b""), 16).bit_count() == len(cpus)
    folders: set[Path] = set()
    for pid in minders(keeper):
        with suppress(FileNotFoundError):  # of two that have nothing to do one goes
            folders.add(Path(f"/proc/{pid}/cwd").readlink())
    assert folders == {keeper.folder}


def test_zombies_of_orphans_do_not_pile_up(keeper: KeeperClient) -> None:
    script = "for i in 1 2 3 4 5; do (setsid true &); done; echo up; sleep 1000"
    keeper.start(1, "sh", "-c", script)
    pid = keeper.event("started", 1)["pid"]
    wait_until(lambda: keeper.out(1))
    children = Path(f"/proc/{minder_of(pid)}/task/{minder_of(pid)}/children")
    wait_until(lambda: children.read_text().split() == [str(pid)])


def test_a_task_that_shoots_its_minder_is_lost_with_its_tree(keeper: KeeperClient) -> None:
    keeper.start(2, "sleep", "1000")
    other = keeper.event("started", 2)["pid"]
    script = "(setsid sleep 1000 &); sleep 1000 & read line < fifo; kill -KILL $PPID; sleep 1000"
    gate = fifo(keeper.folder)
    keeper.start(1, "sh", "-c", script)
    tree = task_tree(keeper.event("started", 1)["pid"], 3)
    gate.write_text("go\n")
    assert "record" not in keeper.event("finished", 1)
    assert not [pid for pid in tree if alive(pid)]
    assert alive(other)
    assert keeper.run(3, "true")["exit_code"] == 0


def test_minders_and_tasks_end_with_a_keeper_that_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "k"
    with running_keeper(folder) as keeper:
        scrubbed = 'env -i "$(command -v setsid)" sleep 1000 & (setsid sleep 1000 &); sleep 1000'
        keeper.start(1, "sh", "-c", scrubbed)
        tree = task_tree(keeper.event("started", 1)["pid"], 3)
        os.kill(keeper.pid, 9)
        wait_until(lambda: not [pid for pid in tree if alive(pid)])
        wait_until(lambda: not keepers(folder))
        assert records(folder / "exits.ndjson") == {}


def test_a_signal_for_all_of_a_minders_group_ends_no_minder(keeper: KeeperClient) -> None:
    keeper.start(1, "sh", "-c", "echo up; sleep 1000")
    pid = keeper.event("started", 1)["pid"]
    for number in (1, 2, 15):
        os.kill(minder_of(pid), number)
    assert keeper.run(2, "true")["exit_code"] == 0
    assert alive(pid)


def test_minders_that_wait_long_go_but_for_one(keeper: KeeperClient) -> None:
    for number in range(4):
        keeper.start(number, "sleep", "0.1")
    for _ in range(4):
        keeper.event("finished")
    wait_until(lambda: len(minders(keeper)) == 1)


def test_what_stands_before_the_program_hides_no_fault(
    keeper: KeeperClient, tmp_path: Path
) -> None:
    first = tmp_path / "first"
    first.write_text('#!/bin/sh\necho "$@"\nshift\nexec "$@"\n')
    first.chmod(0o700)
    prefix = [str(first), "--"]
    keeper.run(1, "echo", "a  b", prefix=prefix)
    found = next(f"{f}/echo" for f in PATH.split(":") if Path(f, "echo").exists())
    assert keeper.out(1).decode() == f"-- {found} a  b\na  b\n"
    record = keeper.run(2, "no-such-program", prefix=prefix)
    assert (record["exit_code"], record["reason"]) == (127, "program not found: no-such-program")
    assert keeper.run(3, "/etc/passwd", prefix=prefix)["exit_code"] == 126
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o700)
    record = keeper.run(4, str(script), prefix=prefix)
    assert (record["exit_code"], "/no/such/interpreter" in record["reason"]) == (127, True)
    script.write_text("echo no interpreter\n")
    assert "#!" in keeper.run(5, str(script), prefix=prefix)["reason"]
    assert keeper.out(2) == keeper.out(4) == keeper.out(5) == b""
    assert keeper.run(6, sys.executable, "-c", "exit(5)", prefix=prefix)["exit_code"] == 5


def test_a_folder_of_the_tasks_own_is_made(keeper: KeeperClient, tmp_path: Path) -> None:
    own = tmp_path / "own"
    for number in (1, 2):
        assert keeper.run(number, "pwd", cwd=str(own), make_cwd=True)["exit_code"] == 0
    assert own.stat().st_mode & 0o777 == 0o700
    record = keeper.run(3, "pwd", cwd=str(tmp_path / "no" / "own"), make_cwd=True)
    assert str(tmp_path / "no" / "own") in record["reason"]


def test_a_folder_of_logs_that_was_cleared_away_is_made_again(
    keeper: KeeperClient, tmp_path: Path
) -> None:
    log = tmp_path / "logs" / "1.out"
    assert keeper.run(1, "echo", "x", stdout=str(log))["exit_code"] == 0
    assert log.read_text() == "x\n"
    assert log.parent.stat().st_mode & 0o777 == 0o700


# A slow machine has work for a minute.
@pytest.mark.timeout(240)
def test_thousands_of_tasks_leave_nothing_behind(keeper: KeeperClient) -> None:
    def memory() -> int:
        sizes: list[int] = []
        for pid in keepers(keeper.folder):
            # A minder that is not needed any more may end meanwhile.
            with suppress(FileNotFoundError, ProcessLookupError):
                _, field, rest = Path(f"/proc/{pid}/status").read_text().partition("RssAnon:")
                sizes += [int(rest.split()[0])] if field else []
        return max(sizes)

    def run(count: int, first: int) -> None:
        for number in range(first, first + count):
            keeper.start(number, "true")
            if number >= first + 2:
                keeper.event("finished")
        for _ in range(2):
            keeper.event("finished")

    run(1000, 0)  # the keeper remembers so many
    begin = memory()
    run(2000, 1000)
    assert memory() - begin < 300, "kB for two thousand tasks"
    assert len(list(Path(f"/proc/{keeper.pid}/fd").iterdir())) < 20
    assert tasks_of(keeper.folder) == set()


def test_a_time_limit_of_months_is_no_fault(keeper: KeeperClient) -> None:
    record = keeper.run(1, "sleep", "0.1", time_limit=300 * 86400.0)
    assert (record["exit_code"], record["cause"]) == (0, None)


def test_a_task_that_stops_its_minder_is_held_to_its_limit(keeper: KeeperClient) -> None:
    record = keeper.run(1, "sh", "-c", "kill -STOP $PPID; sleep 30", time_limit=0.5)
    assert record["cause"] == "timeout"
    assert keeper.run(2, "true")["exit_code"] == 0
