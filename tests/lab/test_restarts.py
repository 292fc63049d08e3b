"""Tasks outlive their runner; what a machine forgets at a restart is told as lost."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from lab.lab import CONFIG, UNIT
from lab.units import (
    NODES,
    PATIENCE,
    Runs,
    end,
    fact,
    leftovers,
    on_both,
    runner_pid,
    sh,
    start,
    unit_cgroup,
    words,
)
from support.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lab.lab import Lab

both = pytest.mark.parametrize("node", NODES)

COUNTED = 60
COUNT = f"i=0; while [ $i -lt {COUNTED} ]; do i=$((i+1)); echo $i; sleep 0.5; done; exit 7"
WAIT = "echo ready; while [ ! -e /shared/{mark} ]; do sleep 0.5; done; "
POLITE = "trap 'exit 0' TERM; echo ready; while :; do sleep 0.5; done"
NUMACTL = "/usr/bin/numactl"
#: So many a task may have when the runners are back: a fork bomb is quicker there.
PROCESSES = 300


@dataclass(frozen=True)
class Away:
    """Tasks that ran on without their runner, and what became of the one that was killed then."""

    runs: Runs
    pids: dict[str, tuple[int, int]]
    while_away: dict[str, str]
    left: dict[str, str]


@pytest.fixture(scope="module")
def away(_shared_lab: Lab) -> Iterator[Away]:
    """SIGKILL both runners, let tasks end and kill one, start them again; node1 lost its numactl.

    Meanwhile systemd reads all its units again, as any installation of a package makes it do.
    """
    lab = _shared_lab
    marks = {mark: lab.shared / mark for mark in ("away", "back")}
    for mark in marks.values():
        mark.unlink(missing_ok=True)
    while_away, when_back = (WAIT.format(mark=mark) for mark in marks)
    runs = start(
        lab,
        {
            "victim": sh(POLITE, private_pid=True),
            "ends away": sh(while_away + "echo bye; exit 9"),
            "grows away": sh(while_away + "tail /dev/zero; sleep 1000", memory="48M"),
            "counts": sh("echo ready;" + COUNT),
            "good after": sh(when_back + "exit 0"),
            "bad after": sh(when_back + "kill -SEGV $$", private_pid=True),
            "grows after": sh(when_back + "tail /dev/zero; sleep 1000", memory="48M"),
        },
    )

    def leave(node: str) -> int:
        for (where, _), run in runs.items():
            if where == node:
                run.wait_for("ready")
        machine = lab.machines[node]
        pid = runner_pid(machine)
        # Killed, not ended; and without the restart that would follow at once.
        machine.run(f"systemctl kill -s KILL {UNIT}; systemctl stop {UNIT}")
        wait_until(lambda: lab.cluster.node_status(node) == "offline", timeout=60)
        machine.run("systemctl daemon-reload")
        return pid

    def come_back(node: str) -> tuple[int, str, str]:
        machine, victim = lab.machines[node], runs[node, "victim"]
        victim.kill()
        state = victim.now().status.value
        machine.run("sleep 3; systemctl daemon-reload")
        if node == "node1":
            machine.run(f"mv {NUMACTL} {NUMACTL}.away")
        machine.run(f"sed -i 's/^.runner.$/&\\ntasks_max = {PROCESSES}/' {CONFIG[node]}")
        machine.run(f"systemctl start {UNIT}")
        lab.wait_online(node, timeout=180)
        wait_until(lambda: victim.now().status == "killed", timeout=PATIENCE, interval=0.5)
        left = leftovers(machine, victim)
        machine.run("systemctl daemon-reload")
        return runner_pid(machine), state, left

    try:
        pids = on_both(leave)
        marks["away"].touch()
        back = on_both(come_back)
        marks["back"].touch()
        end(runs)
        yield Away(
            runs,
            {node: (pids[node], back[node][0]) for node in NODES},
            {node: back[node][1] for node in NODES},
            {node: back[node][2] for node in NODES},
        )
    finally:
        for mark in marks.values():
            mark.touch()
        _restore(lab)


def _restore(lab: Lab) -> None:
    """Put all back as it was; the runners' next start finds it."""
    for node, file in CONFIG.items():
        lab.machines[node].run(f"sed -i /^tasks_max/d {file}")
    lab.node1.run(f"[ ! -e {NUMACTL}.away ] || mv {NUMACTL}.away {NUMACTL}")


@both
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ends away", ("failed", 9)),
        ("counts", ("failed", 7)),
        ("good after", ("completed", 0)),
        ("bad after", ("failed", -11)),
    ],
)
def test_tasks_go_on_without_their_runner_and_end_with_true_codes(
    away: Away, node: str, name: str, expected: tuple[str, int]
) -> None:
    before, after = away.pids[node]
    assert before != after
    assert away.runs[node, name].end == expected, away.runs[node, name].view


@both
@pytest.mark.parametrize("name", ["grows away", "grows after"])
def test_a_memory_limit_holds_without_the_runner(away: Away, node: str, name: str) -> None:
    run = away.runs[node, name]
    assert run.view.status == "killed_oom", run.view
    assert "48" in run.reason, run.view


@both
def test_logs_are_whole_over_a_restart(away: Away, node: str) -> None:
    counted = "".join(f"{number + 1}\n" for number in range(COUNTED))
    assert away.runs[node, "counts"].out == f"ready\n{counted}"
    assert away.runs[node, "ends away"].out == "ready\nbye\n"


@both
def test_a_kill_while_the_node_is_away_is_delivered_on_its_return(away: Away, node: str) -> None:
    # Silent for long, it was taken for lost.
    assert away.while_away[node] in {"running", "lost"}
    victim = away.runs[node, "victim"]
    assert victim.view.status == "killed", victim.view
    assert away.left[node] == ""


def test_a_machine_without_numactl_tells_its_numa_nodes(lab: Lab, away: Away) -> None:
    assert away
    node = lab.cluster.node("node1")
    assert {number: each["cores"] for number, each in node["numa_topology"].items()} == {
        "0": [0, 1],
        "1": [2, 3],
    }
    assert node["capabilities"]["numa_binding"] is None


def test_a_machine_without_numactl_binds_all_the_same(lab: Lab, away: Away) -> None:
    assert away
    # The pages of the shell's own heap and stack, by the node on which they are.
    look = """
    command -v numactl && exit 3
    grep -E '^(Cpus_allowed_list|NoNewPrivs)' /proc/$$/status
    grep -E 'heap|stack' /proc/$$/numa_maps
    """
    runs = start(
        lab,
        {
            "0": sh(look, numa=0, cores=1),
            "1": sh(look, numa=1, cores=1, private_pid=True),
        },
        ["node1"],
    )
    for (_, name), run in end(runs).items():
        numa = int(name)
        assert run.end == ("completed", 0), (run.view, run.out, run.errors)
        assert f"Cpus_allowed_list:\t{('0-1', '2-3')[numa]}\n" in run.out
        assert "NoNewPrivs:\t1\n" in run.out
        maps = [line for line in run.out.splitlines() if "heap" in line or "stack" in line]
        assert len(maps) == 2, run.out
        for line in maps:
            assert f" bind:{numa} " in line, line
            assert f" N{numa}=" in line, line
            assert f" N{1 - numa}=" not in line, line


@dataclass(frozen=True)
class Bomb:
    """A fork bomb at its height, and what came after it."""

    most: str
    hits: int
    status: str
    other: tuple[str, int | None]
    left: str
    end: str


# Each of its processes starts two more while it can; the first one only waits.
BOMB = "bomb() { bomb & bomb & wait; }; (bomb) 2>/dev/null & echo ready; exec sleep 1000"


@pytest.fixture(scope="module")
def bombs(_shared_lab: Lab, away: Away) -> dict[str, Bomb]:
    assert away
    lab = _shared_lab
    runs = start(lab, {"bomb": sh(BOMB, cores=1)})

    def watch(node: str) -> Bomb:
        machine, run = lab.machines[node], runs[node, "bomb"]
        run.wait_for("ready")
        folder = unit_cgroup(machine, run)

        def refused() -> int:
            return int(fact(machine, f"sed -n 's/^max //p' {folder}/pids.events"))

        try:
            wait_until(refused, timeout=PATIENCE, interval=1, what="the limit of processes")
            other = end(start(lab, {"other": sh("exit 17")}, [node]))[node, "other"]
            status = lab.cluster.node_status(node) or ""
            most = fact(machine, f"cat {folder}/pids.max")
            hits = refused()
            run.kill()
            with suppress(AssertionError):
                wait_until(run.final, timeout=PATIENCE, interval=0.5)
            state = run.now().status.value
            return Bomb(most, hits, status, other.end, leftovers(machine, run), state)
        finally:
            # Whatever became of it, it must not run on beside the other tests.
            machine.run(f"[ ! -e {folder} ] || echo 1 > {folder}/cgroup.kill", check=False)

    return on_both(watch)


@both
def test_a_fork_bomb_stays_inside_its_task(bombs: dict[str, Bomb], node: str) -> None:
    bomb = bombs[node]
    assert bomb.most == str(PROCESSES)
    assert bomb.hits > 0
    assert (bomb.status, bomb.other) == ("online", ("failed", 17))


@both
def test_a_fork_bomb_can_be_killed(bombs: dict[str, Bomb], node: str) -> None:
    assert bombs[node].end == "killed"
    assert bombs[node].left == ""


@dataclass(frozen=True)
class Reboot:
    """Tasks of a machine that was restarted, or lost its power, while they ran."""

    runs: Runs
    boots: dict[str, tuple[str, str]]


@pytest.fixture(scope="module")
def reboot(_shared_lab: Lab) -> Reboot:
    """Pull node1's plug and restart node2 in good order."""
    lab = _shared_lab
    _restore(lab)
    lab.cluster.expect_trouble(*NODES)
    jobs = {
        "plain": words("sleep", "1000", cores=1),
        "polite": sh(POLITE, numa=1, cores=1, memory="50M"),
        "private": sh(POLITE, private_pid=True),
    }
    runs = start(lab, jobs)
    for (_, name), run in runs.items():
        if name == "plain":
            wait_until(lambda run=run: run.now().status == "running", timeout=PATIENCE)  # type: ignore[misc]
        else:
            run.wait_for("ready")
    ids = on_both(lambda node: lab.machines[node].boot_id)
    lab.node1.run("sync")
    lab.node1.power_off()
    lab.node1.boot(wait=False)
    lab.node2.reboot()
    lab.node1.wait_up()
    for node in NODES:
        lab.wait_online(node, timeout=180)
    end(runs)
    return Reboot(runs, {node: (ids[node], lab.machines[node].boot_id) for node in NODES})


@both
@pytest.mark.parametrize("name", ["plain", "polite", "private"])
def test_a_task_is_lost_when_its_machine_restarts(reboot: Reboot, node: str, name: str) -> None:
    before, after = reboot.boots[node]
    assert before != after
    view = reboot.runs[node, name].now()
    assert (view.status, view.exit_code) == ("lost", None), view
    assert "reboot" in (view.reason or ""), view


@both
def test_a_machine_that_restarted_is_free_and_runs_tasks(
    lab: Lab, reboot: Reboot, node: str
) -> None:
    assert reboot
    view = lab.cluster.node(node)
    assert (view["cores_in_use"], view["memory_in_use_bytes"]) == (0, 0)
    task = lab.client.run(["true"], target=f"{node}:1", cores=2)
    assert task.result(timeout=PATIENCE).exit_code == 0
