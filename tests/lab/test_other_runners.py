"""Runners beside those of the lab: by scopes on node1, by a user's own systemd on node2.

Each joins by the very line that the host prints, with no more than its way needs; the first one
with a shared directory, the second without.
"""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any

import pytest

from hakuriver.errors import HakuRiverError
from lab.lab import CONFIG, RUNNER_USER
from lab.units import (
    MIB,
    NODES,
    PROBE,
    UIDS,
    Runs,
    end,
    fact,
    leftovers,
    on_both,
    sh,
    start,
    words,
)
from support.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from lab.lab import Lab
    from lab.units import Job

#: Where each of them is, whose it is, and what is added to the host's line.
WHERE = {"node1s": "node1", "node2u": "node2"}
USER = {"node1s": "haku", "node2u": "lin"}
OPTIONS: dict[str, list[str]] = {
    "node1s": ["--launcher", "scope", "--shared-dir", "/shared"],
    "node2u": [],
}

others = pytest.mark.parametrize("name", WHERE)

LIMIT = 48 * MIB
TREE = """
trap '' TERM
setsid sleep 1000 &
(setsid sh -c 'sleep 1001 & sleep 1002' &)
sleep 0.5; echo ready; while :; do sleep 1003; done
"""


@pytest.fixture(scope="module")
def joined(_shared_lab: Lab) -> Iterator[Lab]:
    """Join both, and end them by their pids."""
    lab = _shared_lab
    lines = {name: shlex.join([*lab.join_words(name), *OPTIONS[name]]) for name in WHERE}
    pids: dict[str, str] = {}

    def join(name: str) -> str:
        machine = lab.machines[WHERE[name]]
        log = f"$HOME/{name}.log"
        line = f"setsid {lines[name]} < /dev/null > {log} 2>&1 & echo $!"
        pids[name] = fact(machine, line, user=USER[name])
        try:
            wait_until(lambda: lab.cluster.node_status(name) == "online", timeout=180, interval=0.5)
        except AssertionError as error:
            told = fact(machine, f"cat {log}", user=USER[name])
            raise AssertionError(f"{error}\n{told}") from None
        return pids[name]

    def leave(name: str) -> None:
        machine = lab.machines[WHERE[name]]
        machine.run(f"kill {pids[name]}", user=USER[name])
        wait_until(lambda: lab.cluster.node_status(name) == "offline", timeout=60, interval=0.2)
        lab.client.forget(name)

    try:
        on_both(join, list(WHERE))
        yield lab
    finally:
        on_both(leave, list(pids))


@pytest.fixture(scope="module")
def work(joined: Lab) -> tuple[Runs, dict[str, tuple[str, str]]]:
    """Run all at once: tasks that end, and a whole tree of each runner, which is killed.

    Of the trees it is told how each ended and what was left at that moment.
    """
    jobs: Mapping[str, Job] = {
        "probe": sh(PROBE, "two words", "$HOME", "", cores=2, memory="200M"),
        "code 4": sh("setsid sleep 1000 & exit 4"),
        "signal 11": sh("kill -SEGV $$"),
        "missing": words("no-such-program-anywhere"),
        "child grows": sh("setsid sleep 1000 & tail /dev/zero; sleep 1000", memory=LIMIT),
        "slow": sh("trap 'exit 0' TERM; while :; do sleep 0.2; done", time_limit=2),
    }
    started = start(joined, {"tree": sh(TREE)}, list(WHERE))
    runs = start(joined, jobs, list(WHERE))

    def kill(name: str) -> tuple[str, str]:
        run = started[name, "tree"]
        run.wait_for("ready")
        run.kill()
        return run.view.status.value, leftovers(joined.machines[WHERE[name]], run)

    trees = on_both(kill, list(WHERE))
    return end(runs), trees


@pytest.fixture(scope="module")
def runs(work: tuple[Runs, dict[str, tuple[str, str]]]) -> Runs:
    return work[0]


@pytest.fixture(scope="module")
def trees(work: tuple[Runs, dict[str, tuple[str, str]]]) -> dict[str, tuple[str, str]]:
    return work[1]


def test_each_says_how_it_starts_tasks(joined: Lab) -> None:
    launchers = {name: joined.cluster.node(name)["launcher"] for name in WHERE}
    assert launchers == {"node1s": "scope", "node2u": "service"}


@pytest.mark.parametrize("option", ["private_network", "private_pid"])
def test_isolation_by_a_scope_is_refused_and_said_why(joined: Lab, option: str) -> None:
    with pytest.raises(HakuRiverError) as caught:
        joined.client.run(["true"], target="node1s", **{option: True})  # type: ignore[call-overload]
    assert "scope" in str(caught.value).lower()


@others
def test_a_task_has_its_user_and_no_privileges(runs: Runs, name: str) -> None:
    facts = runs[name, "probe"].facts
    uid = UIDS[USER[name]]
    assert facts["Uid"].split() == facts["Gid"].split() == [str(uid)] * 4
    assert set(facts["Groups"].split()) <= {str(uid)}
    assert facts["NoNewPrivs"] == "1"
    assert {int(facts[f"Cap{kind}"], 16) for kind in ("Inh", "Prm", "Eff", "Amb")} == {0}


@others
def test_a_tasks_memory_is_limited_by_its_own_cgroup(runs: Runs, name: str) -> None:
    facts = runs[name, "probe"].facts
    assert (facts["memory.max"], facts["memory.swap.max"]) == (str(200 * MIB), "0")
    assert 16 <= int(facts["pids.max"]) <= 4096


def test_a_scopes_quota_is_the_cores(runs: Runs) -> None:
    assert runs["node1s", "probe"].facts["cpu.max"] == "200000 100000"


def test_what_a_users_systemd_cannot_hold_is_said(joined: Lab, runs: Runs) -> None:
    """Of the CPU quota the truth: held, or told that it is not."""
    quota = runs["node2u", "probe"].facts.get("cpu.max")
    told = joined.cluster.node("node2u")["capabilities"]["cpu_quota"]
    assert (quota == "200000 100000") == (told is None), (quota, told)


@others
def test_arguments_arrive_byte_for_byte(runs: Runs, name: str) -> None:
    assert runs[name, "probe"].sections["arguments"] == "two words\0$HOME\0\0"


@others
@pytest.mark.parametrize(
    ("job", "expected"), [("code 4", ("failed", 4)), ("signal 11", ("failed", -11))]
)
def test_the_exit_code_is_the_programs_own(
    runs: Runs, name: str, job: str, expected: tuple[str, int]
) -> None:
    assert runs[name, job].end == expected, runs[name, job].view


@others
def test_a_missing_program_is_named(runs: Runs, name: str) -> None:
    run = runs[name, "missing"]
    assert run.end == ("failed", 127), run.view
    assert "no-such-program-anywhere" in run.reason, run.view


@others
def test_a_task_whose_child_grows_is_killed_and_says_so(runs: Runs, name: str) -> None:
    run = runs[name, "child grows"]
    assert run.view.status == "killed_oom", run.view
    assert "peak" in run.reason
    assert "48" in run.reason


@others
def test_a_time_limit_holds_whatever_the_task_exits_with(runs: Runs, name: str) -> None:
    run = runs[name, "slow"]
    assert run.view.status == "failed", run.view
    assert "time" in run.reason, run.view


@others
def test_nothing_is_left_of_tasks_that_ended(joined: Lab, runs: Runs, name: str) -> None:
    mine = [run for (where, _), run in runs.items() if where == name]
    assert leftovers(joined.machines[WHERE[name]], *mine) == ""


@others
def test_a_tree_is_killed_whole(trees: dict[str, tuple[str, str]], name: str) -> None:
    assert trees[name] == ("killed", "")


def test_with_a_shared_directory_logs_and_tasks_are_there(joined: Lab, runs: Runs) -> None:
    run = runs["node1s", "probe"]
    assert run.facts["where"] == run.environment["HAKURIVER_SHARED_DIR"] == "/shared"
    assert run.view.stdout_path == f"/shared/task_outputs/{run.task_id}.out"
    assert run.view.stderr_path == f"/shared/task_errors/{run.task_id}.err"
    log = joined.shared / "task_outputs" / f"{run.task_id}.out"
    assert log.read_text() == run.out
    assert log.stat().st_mode & 0o777 == 0o600
    assert log.stat().st_uid == UIDS["haku"]


def test_without_a_shared_directory_logs_are_the_runners(joined: Lab, runs: Runs) -> None:
    run = runs["node2u", "probe"]
    assert "HAKURIVER_SHARED_DIR" not in run.environment
    path = run.view.stdout_path
    assert path
    assert path.endswith(f"/task_outputs/{run.task_id}.out")
    assert joined.node2.run(["cat", path], user="lin").stdout == run.out


@pytest.fixture(scope="module")
def findings(_shared_lab: Lab) -> dict[str, Any]:
    """What a doctor finds on each machine."""

    def ask(node: str) -> Any:
        line = f"hakuriver doctor --json -c {CONFIG[node]}"
        done = _shared_lab.machines[node].run(line, user=RUNNER_USER[node])
        return json.loads(done.stdout)["findings"]

    return on_both(ask)


@pytest.mark.parametrize("node", NODES)
def test_a_doctor_finds_that_a_runner_can_do_everything(
    findings: dict[str, Any], node: str
) -> None:
    assert findings[node]
    # Clocks go wrong where the emulator has to wait for a processor.
    wrong = [each for each in findings[node] if not each["ok"] and "clock" not in each["what"]]
    assert not wrong
