from __future__ import annotations

import math
import os
import signal
import sys
import time
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from hakuriver.runner.launchers import memory
from hakuriver.runner.launchers.memory import Watch, bound_of, can_measure, exact_of
from support.runner_tools import (
    KeeperClient,
    alive,
    records,
    running_keeper,
    task_tree,
    tasks_of,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MIB = 1 << 20
#: What the scripts begin with: `take` makes so many MiB really there, slowly enough to be seen.
PRELUDE = """
import mmap, os, signal, sys, time
kept = []
def take(mib, pause=0.002):
    for _ in range(mib // 2):
        kept.append(b"x" * ((2 << 20) - 64))
        time.sleep(pause)
def stay():
    print("stays", flush=True)
    time.sleep(60)
def fork(*work):
    pid = os.fork()
    if pid == 0:
        for step in work: step()
        os._exit(0)
    return pid
"""


@pytest.fixture
def keeper(tmp_path: Path) -> Iterator[KeeperClient]:
    with running_keeper(tmp_path / "k") as client:
        yield client


def python(script: str) -> tuple[str, ...]:
    return (sys.executable, "-I", "-S", "-c", PRELUDE + script)


def over(keeper: KeeperClient, script: str, mib: int, **changes: Any) -> dict[str, Any]:
    """Run a script over its memory limit; check that all of it is gone, and return its record."""
    keeper.start(1, *python(script), memory_limit=mib * MIB, **changes)
    keeper.event("finished", 1)
    assert tasks_of(keeper.folder) == set()
    record = keeper.record(1)
    assert (record["cause"], record["limit"]) == ("memory", mib * MIB), record
    assert record["exit_code"] == -signal.SIGKILL
    return record


#: For how long a script may do what it must be seen to do, in seconds: the later ones are for a
#: machine that did not come to it. Each is shorter than a client waits for an event.
TRIES = (0.3, 2.0, 8.0)


def measured(keeper: KeeperClient, script: str, least: int, limit: int) -> dict[str, Any]:
    """Run a script, which stays for `hold` seconds, until `least` bytes of it were seen."""
    record: dict[str, Any] = {}
    for number, hold in enumerate(TRIES, 100):
        record = keeper.run(number, *python(f"hold = {hold}\n{script}"), memory_limit=limit)
        assert (record["exit_code"], record["cause"]) == (0, None)
        if record["peak_memory_bytes"] > least:
            break
    return record


def trapped(keeper: KeeperClient, trap: str, **changes: Any) -> dict[str, Any]:
    """Run a script over its time that had set its trap before that; return its record."""
    script = f"trap '{trap}' TERM; setsid sleep 1000 & echo up; while :; do sleep 0.01; done"
    for number, limit in enumerate(TRIES):
        record = keeper.run(number, "sh", "-c", script, time_limit=limit, **changes)
        if keeper.out(number):
            return record
    raise AssertionError("it never came to set its trap")


# Time


def test_a_task_over_its_time_is_asked_to_end(keeper: KeeperClient) -> None:
    begin = time.monotonic()
    record = keeper.run(1, "sh", "-c", "setsid sleep 1000 & sleep 1000", time_limit=0.3)
    assert time.monotonic() - begin >= 0.3
    assert (record["exit_code"], record["cause"], record["limit"]) == (-15, "timeout", 0.3)
    assert tasks_of(keeper.folder) == set()


def test_a_task_over_its_time_keeps_the_code_that_it_gives(keeper: KeeperClient) -> None:
    record = trapped(keeper, "exit 3")
    assert (record["exit_code"], record["cause"]) == (3, "timeout")


def test_who_ignores_the_end_of_its_time_is_killed_after_the_grace(keeper: KeeperClient) -> None:
    record = trapped(keeper, "", grace=0.3)
    seconds = record["completed_at"] - record["started_at"]
    assert seconds >= record["limit"] + 0.3 - 0.01
    assert (record["exit_code"], record["cause"]) == (-9, "timeout")
    assert tasks_of(keeper.folder) == set()


def test_a_task_within_its_time_is_not_blamed(keeper: KeeperClient) -> None:
    record = keeper.run(1, "sh", "-c", "exit 4", time_limit=30.0)
    assert (record["exit_code"], record["cause"]) == (4, None)
    # Neither for the next task of the same minder, nor by what the first had left.
    assert keeper.run(2, "sleep", "0.3")["cause"] is None


def test_time_that_runs_out_after_a_kill_is_not_its_cause(keeper: KeeperClient) -> None:
    script = "trap '' TERM; echo up; while :; do sleep 0.01; done"
    for number, limit in enumerate(TRIES):
        keeper.start(number, "sh", "-c", script, time_limit=limit)
        begin = keeper.event("started", number)["started_at"]
        wait_until(partial(keeper.out, number))
        keeper.request("kill", id=number, grace=limit + 0.1)
        # Its minder had the kill before this is answered.
        keeper.request("list")
        keeper.event("listed")
        in_time = time.time() < begin + limit
        keeper.event("finished", number)
        if in_time:
            record = keeper.record(number)
            assert (record["cause"], record["exit_code"]) == ("killed", -9)
            assert record["completed_at"] - begin >= limit
            return
    raise AssertionError("no kill came in time")


def test_a_kill_after_the_time_has_run_out_is_not_its_cause(keeper: KeeperClient) -> None:
    script = "trap 'echo term' TERM; while :; do sleep 0.01; done"

    def over(number: int) -> bool:
        return number in records(keeper.folder / "exits.ndjson")

    def asked(number: int) -> bool:
        return keeper.out(number) == b"term\n" or over(number)

    for number, limit in enumerate(TRIES):
        keeper.start(number, "sh", "-c", script, time_limit=limit, grace=1000.0)
        keeper.event("started", number)
        wait_until(partial(asked, number))
        # Without its trap it has ended already.
        if not over(number):
            keeper.request("kill", id=number, grace=0.0)
            keeper.event("finished", number)
            assert keeper.record(number)["cause"] == "timeout"
            return
    raise AssertionError("it never came to set its trap")


def test_time_runs_out_although_no_runner_is_connected(keeper: KeeperClient) -> None:
    keeper.start(1, "sleep", "1000", time_limit=0.4)
    pid = keeper.event("started", 1)["pid"]
    keeper.close()
    wait_until(lambda: not alive(keeper.pid))
    assert not alive(pid)
    assert keeper.record(1)["cause"] == "timeout"


# Memory

GROWTHS = {
    "itself": "take(200); stay()",
    "at one stroke": "kept.append(b'x' * (200 << 20)); stay()",
    "a child": "fork(lambda: take(200), stay); stay()",
    "many small ones": "[fork(lambda: take(20), stay) for _ in range(8)]; stay()",
    "an orphan in its own session": """
def orphan():
    os.setsid()
    if os.fork(): os._exit(0)
    take(200); stay()
os.waitpid(fork(orphan), 0); stay()
""",
    "shared memory": """
area = mmap.mmap(-1, 200 << 20)
for start in range(0, 200 << 20, 1 << 20): area[start : start + (1 << 20)] = b"x" * (1 << 20)
stay()
""",
    "who ignores signals": """
signal.signal(15, signal.SIG_IGN)
fork(lambda: take(200), stay)
stay()
""",
    "what children no longer share": """
take(60)
def copy():
    kept[:] = [bytes(reversed(each)) for each in kept]
for _ in range(3): fork(copy, stay)
stay()
""",
}


@pytest.mark.parametrize("growth", GROWTHS)
def test_over_its_memory_the_whole_tree_is_killed(keeper: KeeperClient, growth: str) -> None:
    record = over(keeper, GROWTHS[growth], 100)
    assert 100 * MIB < record["peak_memory_bytes"] < 250 * MIB


def test_slow_growth_is_caught_near_the_limit(keeper: KeeperClient) -> None:
    # A minder that got no processor for a while, by no fault of its own, is given another chance.
    peaks: list[int] = []
    for number, pause in enumerate((0.002, 0.005, 0.01, 0.01, 0.01)):
        keeper.start(number, *python(f"take(200, {pause}); stay()"), memory_limit=100 * MIB)
        record = keeper.event("finished", number)["record"]
        assert record["cause"] == "memory"
        peaks.append(record["peak_memory_bytes"])
        if peaks[-1] < 130 * MIB:
            break
    assert 100 * MIB < peaks[-1] < 130 * MIB, peaks


def test_memory_is_limited_although_no_runner_is_connected(keeper: KeeperClient) -> None:
    script = "print(1, flush=True); sys.stdin = open('gate'); sys.stdin.read(); take(200); stay()"
    os.mkfifo(keeper.folder / "gate")
    keeper.start(1, *python(script), memory_limit=100 * MIB)
    pid = keeper.event("started", 1)["pid"]
    keeper.close()
    (keeper.folder / "gate").write_text("go")
    wait_until(lambda: not alive(pid))
    wait_until(lambda: not alive(keeper.pid))
    assert keeper.record(1)["cause"] == "memory"


def test_what_children_share_with_their_parent_counts_once(keeper: KeeperClient) -> None:
    script = """
take(120)
for pid in [fork(lambda: time.sleep(0.3 + hold)) for _ in range(4)]: os.waitpid(pid, 0)
"""
    record = measured(keeper, script, 120 * MIB, 200 * MIB)
    assert 120 * MIB < record["peak_memory_bytes"] < 200 * MIB


def test_pages_of_files_do_not_count(keeper: KeeperClient, tmp_path: Path) -> None:
    big = tmp_path / "big"
    with big.open("wb") as file:
        file.truncate(200 * MIB)
    script = f"""
area = mmap.mmap(os.open({str(big)!r}, os.O_RDONLY), 0, prot=mmap.PROT_READ)
assert sum(area[start] for start in range(0, 200 << 20, 4096)) == 0
time.sleep(0.3)
"""
    record = keeper.run(1, *python(script), memory_limit=60 * MIB)
    assert (record["exit_code"], record["cause"]) == (0, None)
    assert record["peak_memory_bytes"] < 60 * MIB


def test_only_a_task_with_a_limit_is_measured(keeper: KeeperClient) -> None:
    assert keeper.run(1, *python("take(40)"))["peak_memory_bytes"] is None
    record = measured(keeper, "take(40); time.sleep(0.3 + hold)", 40 * MIB, 1 << 40)
    assert 40 * MIB < record["peak_memory_bytes"] < 60 * MIB


def test_a_kill_before_stays_a_kill_and_memory_ends_its_grace(keeper: KeeperClient) -> None:
    script = "signal.signal(15, lambda *_: take(200)); stay(); stay()"
    keeper.start(1, *python(script), memory_limit=100 * MIB)
    pid = keeper.event("started", 1)["pid"]
    wait_until(lambda: keeper.out(1))
    # Longer than a client waits for an event.
    keeper.request("kill", id=1, grace=1000.0)
    record = keeper.event("finished", 1)["record"]
    assert (record["cause"], record["exit_code"]) == ("killed", -9)
    assert not alive(pid)


def test_sigkill_from_elsewhere_is_no_matter_of_memory(keeper: KeeperClient) -> None:
    record = keeper.run(1, "sh", "-c", "kill -KILL $$", memory_limit=100 * MIB)
    assert (record["exit_code"], record["cause"]) == (-9, None)


# Measuring


def test_this_process_is_measured() -> None:
    assert can_measure()
    before, kept = exact_of(os.getpid()), b"x" * (64 * MIB)
    assert 60 * MIB < exact_of(os.getpid()) - before < 70 * MIB
    assert bound_of(os.getpid()) > len(kept)
    assert bound_of(2**22 + 1) == exact_of(2**22 + 1) == 0


def test_without_the_exact_figure_the_bound_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_EXACT", (b"NoSuchField:",))
    assert exact_of(os.getpid()) == pytest.approx(bound_of(os.getpid()), rel=0.1)


class Looks:
    """A watch on processes whose sizes the test says; counts the exact looks."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, limit: int, pids: int) -> None:
        self.bound, self.exact, self.slow = 0, 0, 0
        self._pids = list(range(pids))
        monkeypatch.setattr(memory, "pids_below", lambda _: self._pids)
        monkeypatch.setattr(memory, "bound_of", lambda _: self.bound // pids)
        monkeypatch.setattr(memory, "exact_of", self._exact_of)
        # No time passes, so that no look seems to take long.
        monkeypatch.setattr(memory, "time", SimpleNamespace(monotonic=lambda: 1000.0))
        self.watch = Watch(limit)

    def _exact_of(self, _pid: int) -> int:
        self.slow += 1
        return self.exact // len(self._pids)

    def exceeded(self, bound: int, exact: int) -> bool:
        self.bound, self.exact = bound, exact
        return self.watch.exceeded([])

    def pace(self) -> float:
        return self.watch.due - 1000.0


def test_the_pace_of_looks_follows_the_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = Looks(monkeypatch, 1 << 40, 1)
    assert not looks.exceeded(1 << 30, 0)
    assert 0.4 < looks.pace() <= 0.5
    assert not looks.exceeded((1 << 40) - MIB, 0)
    assert looks.pace() < 0.01
    assert looks.slow == 0
    assert looks.watch.peak == (1 << 40) - MIB


def test_the_slow_look_decides_and_only_when_it_must(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = Looks(monkeypatch, 1000, 2)
    assert not looks.exceeded(800, 400)
    assert looks.slow == 2
    assert not looks.exceeded(810, 0)  # no news
    assert looks.slow == 2
    assert looks.watch.peak == 410
    assert not looks.exceeded(1200, 600)  # the bound alone is no proof
    assert looks.exceeded(1300, 1002)
    assert looks.watch.peak == 1002


def test_a_task_that_shares_with_nobody_needs_no_slow_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks = Looks(monkeypatch, 1000, 1)
    assert not any(looks.exceeded(size, 0) for size in (100, 500, 1000))
    assert looks.slow == 0
    assert looks.exceeded(1001, 1001)
    assert not math.isinf(looks.watch.due)


def test_a_tree_is_seen_below_its_minder(keeper: KeeperClient) -> None:
    keeper.start(1, "sh", "-c", "setsid sleep 1000 & (setsid sleep 1000 &); sleep 1000")
    pid = keeper.event("started", 1)["pid"]
    # The subshell that starts the last of them is gone in a moment.
    wait_until(lambda: tasks_of(keeper.folder) == task_tree(pid, 4), what="the same tree")
    assert bound_of(pid) > 0
    keeper.request("kill", id=1, grace=1.0)
    keeper.event("finished", 1)


def test_one_that_ends_while_all_are_measured_makes_nothing_count_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks = Looks(monkeypatch, 1000, 2)
    parts = {0: [450, 0], 1: [900, 900]}  # the first ended after it was measured
    bounds = {0: [900, 0, 0], 1: [900, 900, 900]}
    monkeypatch.setattr(memory, "exact_of", lambda pid: parts[pid].pop(0))
    monkeypatch.setattr(memory, "bound_of", lambda pid: bounds[pid].pop(0))
    assert not looks.watch.exceeded([])
    assert looks.watch.peak == 900
