"""Tasks that do harm: nothing happens to others, and they get their own true end all the same."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from lab.units import (
    NODES,
    TASK_USER,
    Runs,
    end,
    fact,
    leftovers,
    on_both,
    runner_pid,
    sh,
    start,
)

if TYPE_CHECKING:
    from lab.lab import Lab

both = pytest.mark.parametrize("node", NODES)

GUARDED = "/root/guarded"
# Who shares the machine with them: it counts, and exits with a code of its own.
NEIGHBOUR = "i=0; while [ ! -e /shared/enough ]; do i=$((i+1)); echo $i; sleep 1; done; exit 23"
# Wherever the runner keeps something, it writes garbage, and tells what of others it could touch.
PRY = r"""
for folder in /var/lib/hakuriver /root/.hakuriver /root/.local /root/guarded /run/hakuriver \
    "$HOME/.hakuriver" "$HOME/.local"; do
  find "$folder" 2>/dev/null | while read -r file; do
    [ -d "$file" ] && (echo garbage > "$file/zz-garbage") 2>/dev/null && echo "made $file"
    [ -O "$file" ] && continue
    [ -f "$file" ] && [ -r "$file" ] && echo "reads $file"
    [ -f "$file" ] && (echo garbage >> "$file") 2>/dev/null && echo "changes $file"
  done
done
own=/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup)
for up in "$own/.." "$own/../.." /sys/fs/cgroup; do
  (echo $$ > "$up/cgroup.procs") 2>/dev/null && echo "moved to $up"
done
(echo max > "$own/memory.max") 2>/dev/null && echo "memory freed"
(echo max > "$own/pids.max") 2>/dev/null && echo "processes freed"
"""
ROOT = """
sudo -n systemctl --version && echo "sudo systemctl"
sudo -n systemd-run --wait true && echo "sudo systemd-run"
su -c id root < /dev/null && echo su
systemctl stop hakuriver-runner.service && echo stop
systemd-run --wait true && echo systemd-run
[ -r /etc/shadow ] && echo shadow
"""
REPLACE = """
out=$(readlink /proc/$$/fd/1); err=$(readlink /proc/$$/fd/2)
echo before; rm -f "$out" "$err"; ln -s {guarded} "$out"; {instead} "$err"; echo after; sleep 1
"""
# An account that is the runner's too comes to the folder of the exit records; root writes them.
RECORD = """
find /var/lib/hakuriver "$HOME/.local" -type d -name '*exit*' 2>/dev/null | while read -r folder; do
  {instead} "$folder/$HAKURIVER_TASK_ID"
done
"""
TRICKS = {
    "forges its exit record": (
        RECORD.format(instead="printf 'success exited 0\\nrunning\\n' >") + "exit 7",
        7,
    ),
    "links its exit record to a file of root's": (
        RECORD.format(instead=f"ln -s {GUARDED}") + "exit 8",
        8,
    ),
    "makes its exit record a folder": (RECORD.format(instead="mkdir") + "exit 9", 9),
    "pries and becomes root": (f"{PRY}{ROOT}exit 3", 3),
    "closes all and removes its folder": (
        'rm -rf "$PWD" "$TMPDIR"; exec 0<&- 1>&- 2>&- 3>&- 4>&- 5>&-; sleep 1; exit 4',
        4,
    ),
    "replaces its logs by a link and a pipe": (
        REPLACE.format(guarded=GUARDED, instead="mkfifo") + "exit 5",
        5,
    ),
    "replaces its logs by a link and a folder": (
        REPLACE.format(guarded="/proc/1/environ", instead="mkdir") + "exit 6",
        6,
    ),
}


@dataclass(frozen=True)
class Harm:
    """What became of hostile tasks, of their neighbour and of the runner."""

    runs: Runs
    guarded: str
    kept: dict[str, str]
    pids: dict[str, tuple[int, int]]


@pytest.fixture(scope="module")
def harm(_shared_lab: Lab) -> Harm:
    lab = _shared_lab
    enough = lab.shared / "enough"
    enough.unlink(missing_ok=True)
    guarded = secrets.token_hex(16)
    for node in NODES:
        lab.machines[node].write_file(GUARDED, guarded, mode=0o600)
    before = on_both(lambda node: runner_pid(lab.machines[node]))
    neighbours = start(lab, {"neighbour": sh(NEIGHBOUR)})
    jobs = {name: sh(text) for name, (text, _) in TRICKS.items()}
    # Whoever that is, to it the task is gone by a signal; to the kernel, if it may not.
    jobs["kills its parent"] = sh("kill -KILL $PPID; sleep 1; exit 10")
    try:
        runs = end(start(lab, jobs)) | neighbours
    finally:
        enough.touch()
    end(neighbours)
    after = on_both(lambda node: runner_pid(lab.machines[node]))
    kept = on_both(lambda node: fact(lab.machines[node], f"cat {GUARDED}"))
    return Harm(runs, guarded, kept, {node: (before[node], after[node]) for node in NODES})


@both
@pytest.mark.parametrize("name", TRICKS)
def test_a_hostile_task_gets_its_own_exit_code(harm: Harm, node: str, name: str) -> None:
    run = harm.runs[node, name]
    assert run.end == ("failed", TRICKS[name][1]), run.view


@both
def test_a_task_that_kills_what_supervises_it_ends(lab: Lab, harm: Harm, node: str) -> None:
    run = harm.runs[node, "kills its parent"]
    assert run.end in {("failed", 10), ("failed", -9)}, run.view
    assert leftovers(lab.machines[node], run) == ""


@both
def test_others_go_on_as_if_nothing_was(lab: Lab, harm: Harm, node: str) -> None:
    run = harm.runs[node, "neighbour"]
    assert run.end == ("failed", 23), run.view
    lines = run.out.splitlines()
    assert lines == [str(number + 1) for number in range(len(lines))]
    before, after = harm.pids[node]
    assert before == after
    assert lab.cluster.node_status(node) == "online"


@both
def test_a_task_comes_to_no_rights_of_others(harm: Harm, node: str) -> None:
    told = harm.runs[node, "pries and becomes root"].out.splitlines()
    # What the runner keeps in a home of its own is its user's, who is the task's user too; and a
    # task may make files where its own logs are, never where exits are recorded.
    wrong = [line for line in told if f" /home/{TASK_USER[node]}/" not in line]
    assert not [line for line in wrong if not line.startswith("made ") or "exit" in line], told


@both
def test_nobody_writes_a_file_of_roots_for_a_task(harm: Harm, node: str) -> None:
    assert harm.kept[node] == harm.guarded


@both
def test_a_log_that_became_a_link_is_never_followed(lab: Lab, harm: Harm, node: str) -> None:
    for name in TRICKS:
        for stream in ("stdout", "stderr"):
            path = f"/api/task/{harm.runs[node, name].task_id}/{stream}"
            body = lab.cluster.http("GET", path).body.decode("utf-8", "replace")
            assert harm.guarded not in body
            assert "PATH=" not in body
            assert "garbage" not in body
