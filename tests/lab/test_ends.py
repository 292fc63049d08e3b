"""How tasks end on real machines: by themselves, over a limit, or killed with all they started."""

from __future__ import annotations

import time
from concurrent.futures import wait
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from lab.units import (
    MIB,
    NODES,
    PATIENCE,
    Runs,
    end,
    leftovers,
    on_both,
    sh,
    start,
    wait_until_none_failed,
    words,
)
from support.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hakuriver.model.tasks import Usage
    from lab.lab import Lab

both = pytest.mark.parametrize("node", NODES)

#: What a runner without a setting of its own waits between SIGTERM and SIGKILL.
GRACE = 5.0
# Long enough for a task to start; the others take longer than that.
SLOW = 20
LIMIT = 48 * MIB
FILL = "/dev/shm/of-the-lab-$HAKURIVER_TASK_ID"
#: Three ways out of the process tree of the task, none of which minds SIGTERM.
STUBBORN = """
trap '' TERM HUP INT
setsid sleep 1000 &
(setsid sh -c 'sleep 1001 & sleep 1002' &)
sleep 0.5; echo ready; while :; do sleep 1003; done
"""
POLITE = "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.2; done"


@pytest.fixture(scope="module")
def ends(_shared_lab: Lab) -> Iterator[Runs]:
    """Tasks that end by themselves or by their limits."""
    lab = _shared_lab
    jobs = {
        "code 4": sh("setsid sleep 1000 & exit 4"),
        "signal 11": sh("kill -SEGV $$"),
        "missing": words("no-such-program-anywhere", "--flag"),
        "no program": words("/etc/passwd"),
        "no folder": words("true", workdir="/no/such/folder"),
        "private code 5": sh("exit 5", private_pid=True),
        "private signal 11": sh("kill -SEGV $$", private_pid=True),
        "grows": words("tail", "/dev/zero", memory=LIMIT),
        "child grows": sh("setsid sleep 1000 & tail /dev/zero; echo on; sleep 1000", memory=LIMIT),
        "fills a file": sh(f"cat /dev/zero > {FILL}; echo on; sleep 1000", memory=LIMIT),
        # Over before there is anything to tell it.
        "too slow": sh("sleep 1000", time_limit=0.3),
    }
    # These must have started in time, so they come first; while it runs out, the others run.
    slow = {
        "slow and polite": sh(POLITE, time_limit=SLOW),
        "slow and stubborn": sh(STUBBORN, time_limit=SLOW),
    }
    try:
        runs = start(lab, slow)
        for run in runs.values():
            run.wait_for("ready")
        yield end(runs | start(lab, jobs))
    finally:
        on_both(lambda node: lab.machines[node].run("rm -f /dev/shm/of-the-lab-*"))


@both
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("code 4", ("failed", 4)),
        ("signal 11", ("failed", -11)),
        ("private code 5", ("failed", 5)),
        ("private signal 11", ("failed", -11)),
    ],
)
def test_the_exit_code_is_the_programs_own(
    ends: Runs, node: str, name: str, expected: tuple[str, int]
) -> None:
    run = ends[node, name]
    assert run.end == expected, run.view


@both
@pytest.mark.parametrize("name", ["missing"])
def test_a_missing_program_is_named(ends: Runs, node: str, name: str) -> None:
    run = ends[node, name]
    assert run.end == ("failed", 127), run.view
    assert run.view.command in run.reason, run.view


@both
@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("no program", "/etc/passwd"),
        ("no folder", "/no/such/folder"),
    ],
)
def test_a_task_that_cannot_start_says_what_is_wrong(
    ends: Runs, node: str, name: str, word: str
) -> None:
    run = ends[node, name]
    assert run.view.status == "failed", run.view
    assert run.view.exit_code != 0
    assert word in run.reason, run.view


@both
@pytest.mark.parametrize("name", ["grows", "child grows", "fills a file"])
def test_a_task_over_its_memory_limit_is_killed_and_says_so(
    ends: Runs, node: str, name: str
) -> None:
    run = ends[node, name]
    assert run.view.status == "killed_oom", (run.view, run.out, run.errors)
    assert "peak" in run.reason, run.view
    assert "48" in run.reason, run.view
    assert run.out == ""
    assert run.usage.peak_memory_bytes is not None
    # The kernel counts a page or two that it then refuses.
    assert LIMIT * 0.9 < run.usage.peak_memory_bytes <= LIMIT * 1.01


@both
@pytest.mark.parametrize("name", ["slow and polite", "slow and stubborn", "too slow"])
def test_a_task_over_its_time_limit_failed_whatever_it_exits_with(
    ends: Runs, node: str, name: str
) -> None:
    run = ends[node, name]
    assert run.view.status == "failed", run.view
    assert "time" in run.reason, run.view
    assert "limit" in run.reason or "timeout" in run.reason, run.view


@both
def test_a_time_limit_sends_sigterm_and_kills_after_the_grace(ends: Runs, node: str) -> None:
    assert ends[node, "slow and polite"].out == "ready\nbye\n"
    # The grace makes it longer than the limit, though its start may be told seconds late; and what
    # comes late on a busy machine is still far from never.
    assert SLOW < ends[node, "slow and stubborn"].seconds < SLOW + GRACE + 60


@both
def test_nothing_is_left_of_tasks_that_ended(lab: Lab, ends: Runs, node: str) -> None:
    runs = [run for (where, _), run in ends.items() if where == node]
    assert leftovers(lab.machines[node], *runs) == ""


@dataclass
class Killed:
    """Tasks that ran until they were killed, and how that went."""

    runs: Runs
    before: dict[tuple[str, str], Usage | None] = field(default_factory=dict)
    seconds: dict[tuple[str, str], float] = field(default_factory=dict)
    left: dict[tuple[str, str], str] = field(default_factory=dict)


@pytest.fixture(scope="module")
def killed(_shared_lab: Lab) -> Killed:
    """Three tasks of each node, killed together, looked at as soon as each is `killed`."""
    lab = _shared_lab
    jobs = {
        "polite": sh(POLITE),
        "private": sh(POLITE, private_pid=True),
        "stubborn": sh(STUBBORN),
    }
    seen = Killed(start(lab, jobs))

    def kill_all(node: str) -> None:
        mine = {key: run for key, run in seen.runs.items() if key[0] == node}
        for run in mine.values():
            run.wait_for("ready")
        usage = wait_until(
            lambda: mine[node, "polite"].now().usage, timeout=90, interval=0.3, what="usage"
        )
        seen.before[node, "polite"] = usage
        begin = time.monotonic()
        for run in mine.values():
            run.kill()
        for key, run in mine.items():
            assert run.view.status == "killed", run.view
            seen.seconds[key] = time.monotonic() - begin
            seen.left[key] = leftovers(lab.machines[node], run)

    on_both(kill_all)
    return seen


@both
def test_usage_is_told_while_a_task_runs(killed: Killed, node: str) -> None:
    usage = killed.before[node, "polite"]
    assert usage is not None
    assert usage.cpu_seconds is not None
    assert usage.memory_bytes is not None
    assert usage.cpu_seconds > 0
    assert 100 << 10 < usage.memory_bytes < 100 * MIB
    after = killed.runs[node, "polite"].usage
    assert after.cpu_seconds is not None
    assert after.cpu_seconds >= usage.cpu_seconds


@both
@pytest.mark.parametrize("name", ["polite", "private"])
def test_a_killed_task_may_end_itself_first(killed: Killed, node: str, name: str) -> None:
    run = killed.runs[node, name]
    assert run.out == "ready\nbye\n"
    # However it exits, it was killed.
    assert run.view.status == "killed"


@both
@pytest.mark.parametrize("name", ["stubborn"])
def test_a_stubborn_task_is_killed_after_the_grace(killed: Killed, node: str, name: str) -> None:
    seconds = killed.seconds[node, name]
    # What comes late on a busy machine is still far from never.
    assert GRACE - 0.5 < seconds < GRACE + 90


@both
def test_a_task_is_killed_only_when_all_of_it_is_gone(killed: Killed, node: str) -> None:
    left = {name: left for (where, name), left in killed.left.items() if where == node}
    assert len(left) == 3
    assert set(left.values()) == {""}, left


#: Asks whether the machine is going down, as what notes the end of a unit does, for too long.
SLOW_SYSTEMCTL = """#!/bin/sh
case "$*" in is-system-running) sleep 60 ;; esac
exec /usr/bin/systemctl "$@"
"""


def test_a_unit_that_fails_after_a_good_end_is_forgotten(lab: Lab) -> None:
    path = "/usr/local/sbin/systemctl"
    write = f"cat > {path} && chmod 755 {path}"
    on_both(lambda node: lab.machines[node].run(write, stdin=SLOW_SYSTEMCTL.encode()))
    try:
        runs = end(start(lab, {"true": words("true")}))
    finally:
        on_both(lambda node: lab.machines[node].run(f"rm {path}"))
    for (node, _), run in runs.items():
        machine = lab.machines[node]
        assert run.end == ("completed", 0), run.view
        told = machine.run(f"journalctl --no-pager -u {run.unit}").stdout
        assert "Failed with result 'timeout'" in told
        wait_until_none_failed(machine)


def test_a_queued_task_that_is_killed_never_runs(lab: Lab) -> None:
    blockers = lab.client.run(["sleep", "1000"], targets=NODES, cores=4)
    marks = {node: lab.shared / f"ran-on-{node}" for node in NODES}
    queued = {
        node: lab.client.run(["touch", f"/shared/ran-on-{node}"], target=node, cores=4)
        for node in NODES
    }
    for node, task in queued.items():
        assert task.status().status == "pending"
        assert (task.status().reason or "") != ""
        lab.client.kill(task.task_id)
        wait([task], timeout=PATIENCE)
        view = task.status()
        assert (view.status, view.exit_code, view.started_at) == ("killed", None, None), node
    told = lab.client.kill_batch(blockers.batch_id)
    assert set(told.task_ids) == {task.task_id for task in blockers}
    wait(list(blockers), timeout=PATIENCE)
    assert {task.status().status.value for task in blockers} == {"killed"}
    assert {node.hostname: node.cores_in_use for node in lab.client.nodes()} == dict.fromkeys(
        NODES, 0
    )
    assert not any(mark.exists() for mark in marks.values())
