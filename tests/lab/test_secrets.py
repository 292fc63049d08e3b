"""Where the values of a task's variables are in a machine: in its own processes, nowhere else."""

from __future__ import annotations

import secrets
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from lab.lab import CONFIG
from lab.units import NODES, TASK_USER, Run, on_both, sh, start
from support.processes import wait_until

if TYPE_CHECKING:
    from lab.lab import Lab
    from lab.machine import Machine

both = pytest.mark.parametrize("node", NODES)

# Root looks at all processes, again and again, from before the task starts until it runs, and
# once more then. What is looked for comes from a file, so that the search does not find itself.
_WATCH = """#!/bin/sh
cd /proc; last=
while [ -z "$last" ]; do
  [ ! -e /root/watch/stop ] || last=1
  for hit in $(grep -lsaF -f /root/watch/secret [0-9]*/cmdline [0-9]*/environ); do
    read -r group < "${hit%/*}/cgroup" || group=gone
    echo "$hit $(tr '\\0' ' ' < "${hit%/*}/cmdline" | cut -c1-150) $group"
  done
  echo round; sleep 0.2
done > /root/watch/hits 2>/dev/null
touch /root/watch/over
"""
# What anybody could look at, and files that others than their owner can read.
_LOOK = """
cd /root/watch
hit() { grep -aF -f secret > /dev/null && echo "$1"; }
journalctl -q --no-pager -o verbose | hit journal
systemctl show --all UNIT | hit 'systemctl show'
systemctl cat UNIT 2>/dev/null | hit 'systemctl cat'
systemctl status -l --no-pager UNIT 2>/dev/null | hit 'systemctl status'
ps axww | hit ps
grep -rlsaF -f secret /run /etc | sed 's/^/file /'
grep -rlsaF -f secret /var /home /tmp /root/.hakuriver /shared | while read -r file; do
  stat -c '%a %U %n' "$file"; done | grep -v '^[64]00 ' | sed 's/^/open file /'
:
"""
_KEPT = "cd /root/watch; grep -rlsaF -f secret /run /etc /var /home /tmp /root/.hakuriver; :"


@dataclass(frozen=True)
class Hunt:
    """What was seen of a secret while its task started and ran, and what is kept afterwards."""

    run: Run
    hits: list[str]
    shown: str
    kept: str


@pytest.fixture(scope="module")
def hunts(_shared_lab: Lab) -> dict[str, Hunt]:
    lab = _shared_lab
    secret = secrets.token_hex(16)

    def prepare(node: str) -> None:
        machine = lab.machines[node]
        machine.write_file("/root/watch/secret", secret + "\n", mode=0o600)
        machine.write_file("/root/watch/run", _WATCH, mode=0o700)
        machine.run(
            "cd /root/watch; rm -f stop over; setsid /root/watch/run < /dev/null > /dev/null 2>&1 &"
        )

    on_both(prepare)
    job = sh('echo ready; echo "${#KEY}"; while :; do sleep 0.5; done', env={"KEY": secret})
    runs = start(lab, {"secret": job})

    def hunt(node: str) -> Hunt:
        machine, run = lab.machines[node], runs[node, "secret"]
        run.wait_for("ready\n32\n")
        machine.run("cd /root/watch; touch stop; until [ -e over ]; do sleep 0.2; done")
        shown = machine.run(_LOOK.replace("UNIT", run.unit), timeout=240).stdout
        hits = machine.run("cat /root/watch/hits").stdout.splitlines()
        run.kill()
        assert run.view.status == "killed"
        return Hunt(run, hits, shown, _kept(machine))

    return on_both(hunt)


def _kept(machine: Machine) -> str:
    """Return the files that still hold the secret, when those that forget it have had time to."""
    with suppress(AssertionError):
        wait_until(lambda: not machine.run(_KEPT, timeout=120).stdout, timeout=60, interval=1)
    return machine.run(_KEPT, timeout=120).stdout


@both
def test_only_the_tasks_own_processes_hold_a_value(hunts: dict[str, Hunt], node: str) -> None:
    hunt = hunts[node]
    assert hunt.hits.count("round") > 2
    hits = {hit for hit in hunt.hits if hit != "round"}
    # So the search works.
    assert any("/environ" in hit for hit in hits), hunt.hits
    # One that ended while it was looked at is told without its cgroup.
    assert not {hit for hit in hits if hunt.run.unit not in hit and not hit.endswith(" gone")}
    assert not {hit for hit in hits if "/cmdline" in hit}


@both
def test_neither_systemd_nor_a_log_nor_an_open_file_shows_a_value(
    hunts: dict[str, Hunt], node: str
) -> None:
    assert hunts[node].shown == ""


@both
def test_no_file_keeps_a_value_when_the_task_has_ended(hunts: dict[str, Hunt], node: str) -> None:
    assert hunts[node].kept == ""


@both
def test_no_view_shows_a_value(lab: Lab, hunts: dict[str, Hunt], node: str) -> None:
    run = hunts[node].run
    view = run.view
    assert view.env_vars.keys() == {"KEY"}
    secret = lab.machines[node].run("cat /root/watch/secret").stdout.strip()
    for path in (f"/api/status/{run.task_id}", "/api/tasks?limit=200", "/api/nodes", "/metrics"):
        assert secret not in lab.cluster.http("GET", path).body.decode()
    host = lab.root / "outside" / "host.log"
    assert secret not in host.read_text("utf-8", "replace")


@both
def test_the_runners_own_token_is_its_own(lab: Lab, hunts: dict[str, Hunt], node: str) -> None:
    """The file that joining wrote can be read by its owner alone, and no process list has it."""
    machine = lab.machines[node]
    owner = "root" if TASK_USER[node] == "worker" else "haku"
    file = CONFIG[node]
    assert machine.run(["stat", "-c", "%a %U", file]).stdout == f"600 {owner}\n"
    hunt = "sed -n 's/^runner_token = \"\\(.*\\)\"/\\1/p' {} > /root/watch/token"
    machine.run(hunt.format(file))
    machine.run("[ -s /root/watch/token ]")
    seen = machine.run(
        "cd /proc; grep -lsaF -f /root/watch/token [0-9]*/cmdline [0-9]*/environ; "
        "journalctl -q --no-pager | grep -aF -f /root/watch/token; :"
    )
    assert seen.stdout == ""
    del hunts
