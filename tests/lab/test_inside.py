"""What a task finds where it runs: its limits, its place, its arguments and its user.

All of it is told by tasks themselves, of the files of their own cgroups and of ``/proc``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hakuriver.errors import HakuRiverError
from lab.units import (
    MIB,
    NODES,
    PROBE,
    TASK_USER,
    UIDS,
    Run,
    Runs,
    end,
    fact,
    script,
    sh,
    start,
    words,
)

if TYPE_CHECKING:
    from lab.lab import Lab

both = pytest.mark.parametrize("node", NODES)

ARGUMENTS = (
    "",
    "two words",
    "  spaces around  ",
    "a \"double\" and a 'single' quote",
    "$HOME ${X} $$ $ ${} $1 $(id) `id`",
    "$X",
    "%n %% %i %h %",
    "a line\nand another\n",
    "tab\tbell\ares\r",
    "Grüße, 世界, \N{SNAKE}",
    "back\\slash \\\\ \\n \\x41 \\101 and at the end \\",
    "-n",
    "--user=root",
    ";",
    "; rm -rf /nowhere",
    "&& | > < * ? [a] {b,c} ~ # !",
    "@-+:!",
)
VALUES = {
    "ODD_EMPTY": "",
    "ODD_SPACES": "  two  words  ",
    "ODD_QUOTES": "\"a' `id`",
    "ODD_DOLLARS": "$HOME ${X} $$ $(id)",
    "ODD_PERCENT": "%n %% %h",
    "ODD_LINES": "a line\n# no comment\n\nODD_FORGED=1\nlast \\\n",
    "ODD_BACKSLASH": r"\ \\ \n \x41 \"",
    "ODD_WORDS": "Grüße, 世界; #not a comment",
    "odd_lower": "--flag=a=b",
}
#: What the contract's section 7 lists, without what is not there: no NUMA node, no shared
#: directory and no folder for temporary files was named.
PROMISED = frozenset({
    *("HOME", "USER", "PATH", "LANG", "TMPDIR", "PYTHONUNBUFFERED"),
    *("HAKURIVER_TASK_ID", "HAKURIVER_BATCH_ID", "HAKURIVER_BATCH_INDEX", "HAKURIVER_BATCH_SIZE"),
    *("HAKURIVER_NODE", "HAKURIVER_CORES"),
})  # fmt: skip
WHERE = "/shared/work $HOME %h 'x'"
ODD_PROGRAM = "/shared/odd $HOME %n/a $$ program"


@pytest.fixture(scope="module")
def inside(_shared_lab: Lab) -> Runs:
    """Everything that these tests look at, run once."""
    lab = _shared_lab
    for folder in (WHERE, str(Path(ODD_PROGRAM).parent)):
        there = lab.shared / Path(folder).name
        there.mkdir(exist_ok=True)
        there.chmod(0o1777)
    odd = lab.shared / "odd $HOME %n" / "a $$ program"
    odd.write_text(f"#!/bin/sh\n{PROBE}")
    odd.chmod(0o755)
    targets = [*(f"{node}:{numa}" for node in NODES for numa in (0, 1)), *NODES]
    batch = lab.client.run(
        ["sh", "-c", PROBE], targets=targets, env={"GIVEN": "to all"}, cores=2, memory="200M"
    )
    assert not batch.failed_targets
    names = ["batch :0", "batch :1"] * 2 + ["batch unbound"] * 2
    nodes = ["node1", "node1", "node2", "node2", *NODES]
    runs = {
        (node, name): Run(lab, node, task)
        for node, name, task in zip(nodes, names, batch, strict=True)
    }
    jobs = {
        "free": sh(PROBE, *ARGUMENTS, env=VALUES),
        "script": script(PROBE, *ARGUMENTS, numa=1, cores=1, env=VALUES, workdir=WHERE),
        "odd program": words(ODD_PROGRAM, *ARGUMENTS, private_network=True, workdir=WHERE),
        "isolated": sh(
            *(PROBE, *ARGUMENTS),
            numa=1,
            cores=1,
            memory="200M",
            env=VALUES,
            private_network=True,
            private_pid=True,
        ),
    }
    return end(runs | start(lab, jobs))


@both
def test_a_bound_task_is_held_to_its_limits_by_its_own_cgroup(inside: Runs, node: str) -> None:
    facts = inside[node, "batch :0"].facts
    assert facts["cpu.max"] == "200000 100000"
    assert facts["memory.max"] == str(200 * MIB)
    assert facts["memory.swap.max"] == "0"
    assert 16 <= int(facts["pids.max"]) <= 4096


@both
@pytest.mark.parametrize("numa", [0, 1])
def test_a_bound_task_has_the_cpus_and_the_memory_of_its_numa_node(
    inside: Runs, node: str, numa: int
) -> None:
    facts = inside[node, f"batch :{numa}"].facts
    cpus = ("0 1", "2 3")[numa]
    assert inside[node, f"batch :{numa}"].environment["HAKURIVER_TARGET_NUMA_NODE"] == str(numa)
    assert facts["numactl.membind"] == facts["numactl.nodebind"] == str(numa)
    assert facts["numactl.physcpubind"] == cpus
    assert facts["Cpus_allowed_list"] == cpus.replace(" ", "-")


@both
def test_an_unbound_task_of_the_same_batch_may_run_anywhere(inside: Runs, node: str) -> None:
    facts = inside[node, "batch unbound"].facts
    assert "HAKURIVER_TARGET_NUMA_NODE" not in inside[node, "batch unbound"].environment
    assert facts["numactl.membind"] == "0 1"
    assert facts["Cpus_allowed_list"] == "0-3"
    assert (facts["cpu.max"], facts["memory.max"]) == ("200000 100000", str(200 * MIB))


def test_all_targets_make_one_batch_and_see_its_variables(inside: Runs) -> None:
    batch = [run for (_, name), run in inside.items() if name.startswith("batch ")]
    assert len({run.view.batch_id for run in batch}) == 1
    assert len({run.task_id for run in batch}) == 6
    seen = [run.environment for run in batch]
    assert {each["HAKURIVER_BATCH_INDEX"] for each in seen} == set("012345")
    assert {(each["HAKURIVER_BATCH_SIZE"], each["GIVEN"]) for each in seen} == {("6", "to all")}
    targets = {run.view.target for run in batch}
    assert targets == {"node1:0", "node1:1", "node2:0", "node2:1", "node1", "node2"}


@both
def test_a_task_without_limits_has_none_but_on_processes(inside: Runs, node: str) -> None:
    facts = inside[node, "free"].facts
    assert facts["cpu.max"] == "max 100000"
    assert facts["memory.max"] == "max"
    assert 16 <= int(facts["pids.max"]) <= 4096


@both
def test_an_unknown_numa_node_is_refused_with_those_that_exist(lab: Lab, node: str) -> None:
    with pytest.raises(HakuRiverError) as caught:
        lab.client.run(["true"], target=f"{node}:9")
    words = str(caught.value)
    assert "9" in words
    assert re.search(r"\b0\b.*\b1\b", words), words


@both
@pytest.mark.parametrize("name", ["free", "script", "odd program", "isolated"])
def test_arguments_arrive_byte_for_byte(inside: Runs, node: str, name: str) -> None:
    assert inside[node, name].sections["arguments"].split("\0") == [*ARGUMENTS, ""]


@both
@pytest.mark.parametrize("name", ["free", "script", "isolated"])
def test_values_arrive_byte_for_byte(inside: Runs, node: str, name: str) -> None:
    seen = inside[node, name].environment
    assert {name: seen.get(name) for name in VALUES} == VALUES


@both
@pytest.mark.parametrize("name", ["free", "isolated"])
def test_the_environment_is_what_the_contract_lists_and_no_more(
    inside: Runs, node: str, name: str
) -> None:
    run = inside[node, name]
    seen = run.environment
    bound = name == "isolated"
    given = set(VALUES) | ({"HAKURIVER_TARGET_NUMA_NODE"} if bound else set())
    assert {each for each in seen if not each.endswith("_THREADS")} == PROMISED | given
    user = TASK_USER[node]
    expected = {
        "HOME": f"/home/{user}",
        "USER": user,
        "LANG": "C.UTF-8",
        "PYTHONUNBUFFERED": "1",
        "HAKURIVER_TASK_ID": run.task_id,
        "HAKURIVER_BATCH_ID": run.view.batch_id,
        "HAKURIVER_BATCH_INDEX": "0",
        "HAKURIVER_BATCH_SIZE": "1",
        "HAKURIVER_NODE": node,
        "HAKURIVER_CORES": "1" if bound else "0",
    }
    assert {name: seen[name] for name in expected} == expected


@both
def test_threads_follow_the_cores(inside: Runs, node: str) -> None:
    assert inside[node, "batch :0"].environment["OMP_NUM_THREADS"] == "2"
    assert inside[node, "script"].environment["OMP_NUM_THREADS"] == "1"
    assert "OMP_NUM_THREADS" not in inside[node, "free"].environment


@both
@pytest.mark.parametrize("name", ["free", "isolated"])
def test_a_task_starts_with_clean_signals_descriptors_and_an_empty_input(
    inside: Runs, node: str, name: str
) -> None:
    run = inside[node, name]
    assert run.sections["input"] == ""
    # The fourth is the folder that is being listed.
    assert run.sections["descriptors"].split() == ["0", "1", "2", "3"]
    # Signals 32 and 33 are the C library's own.
    masks = [int(run.facts[each], 16) & ~(0b11 << 31) for each in ("SigBlk", "SigIgn")]
    assert masks == [0, 0]


@both
def test_a_task_without_a_folder_has_one_of_its_own_to_write_in(
    lab: Lab, inside: Runs, node: str
) -> None:
    run = inside[node, "free"]
    where = run.facts["where"]
    assert run.task_id in where
    user = TASK_USER[node]
    assert fact(lab.machines[node], ["stat", "-c", "%U %a", where]) == f"{user} 700"


@both
@pytest.mark.parametrize("name", ["script", "odd program"])
def test_a_task_runs_in_the_folder_that_it_was_given(
    lab: Lab, inside: Runs, node: str, name: str
) -> None:
    assert inside[node, name].facts["where"] == WHERE
    made = lab.shared / Path(WHERE).name / f"made by {node}"
    assert made.stat().st_uid == UIDS[TASK_USER[node]]


@both
@pytest.mark.parametrize("name", ["free", "batch :0", "isolated", "script"])
def test_a_task_has_the_user_and_the_groups_and_no_privileges(
    lab: Lab, inside: Runs, node: str, name: str
) -> None:
    facts = inside[node, name].facts
    user = TASK_USER[node]
    uid = UIDS[user]
    assert facts["Uid"].split() == facts["Gid"].split() == [str(uid)] * 4
    of_the_user = fact(lab.machines[node], f"id -G {user}").split()
    assert set(facts["Groups"].split()) | {str(uid)} == set(of_the_user)
    assert facts["NoNewPrivs"] == "1"
    held = {kind: int(facts[f"Cap{kind}"], 16) for kind in ("Inh", "Prm", "Eff", "Amb")}
    assert set(held.values()) == {0}, held


@both
def test_the_logs_are_the_users_own(lab: Lab, inside: Runs, node: str) -> None:
    run = inside[node, "batch :1"]
    user, machine = TASK_USER[node], lab.machines[node]
    out, errors = run.view.stdout_path, run.view.stderr_path
    assert out
    assert errors
    assert machine.run(["cat", out], user=user).stdout == run.out
    shown = fact(machine, ["stat", "-c", "%U %a", out, errors])
    assert shown.splitlines() == [f"{user} 600"] * 2
    assert machine.run(["cat", out], user="lin", check=False).returncode != 0


@both
@pytest.mark.parametrize("name", ["odd program", "isolated"])
def test_a_private_network_has_only_a_loopback(inside: Runs, node: str, name: str) -> None:
    interfaces = r"^\s*(\S+):"
    shown = inside[node, name].sections["network"]
    assert re.findall(interfaces, shown, re.MULTILINE) == ["lo"]
    open_one = inside[node, "free"].sections["network"]
    assert set(re.findall(interfaces, open_one, re.MULTILINE)) > {"lo"}


@both
def test_a_private_task_is_the_first_process_and_sees_no_other(inside: Runs, node: str) -> None:
    run = inside[node, "isolated"]
    assert run.facts["pid"] in {"1", "2"}
    names = run.sections["processes"].split()
    assert "sh" in names
    assert len(names) <= 2, names
    assert len(inside[node, "free"].sections["processes"].split()) > 10


@both
def test_an_isolated_task_has_its_limits_and_its_place_too(inside: Runs, node: str) -> None:
    facts = inside[node, "isolated"].facts
    assert facts["cpu.max"] == "100000 100000"
    assert (facts["memory.max"], facts["memory.swap.max"]) == (str(200 * MIB), "0")
    assert (facts["numactl.membind"], facts["numactl.physcpubind"]) == ("1", "2 3")


@both
def test_every_task_tells_what_it_used(inside: Runs, node: str) -> None:
    for (where, name), run in inside.items():
        if where != node:
            continue
        usage = run.usage
        assert usage.cpu_seconds is not None, name
        assert 0 < usage.cpu_seconds < 60, name
        assert usage.peak_memory_bytes is not None, name
        assert 100 << 10 < usage.peak_memory_bytes < 100 * MIB, name
