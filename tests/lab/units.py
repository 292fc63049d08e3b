"""Many tasks on both machines at once, and what they and their machines say of them.

A task takes seconds there, so tests share their runs: jobs are submitted together for every node,
and each test looks at the ones that it is about.
"""

from __future__ import annotations

import re
import shlex
import time
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

from hakuriver.client.building import RunOptions, command_request, script_request
from hakuriver.model.views import TaskResult
from support.harness import FINAL
from support.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from hakuriver.client.futures import Task
    from hakuriver.model.submission import SubmitRequest
    from hakuriver.model.tasks import Usage
    from hakuriver.model.views import TaskView
    from lab.lab import Lab
    from lab.machine import Machine

NODES = ("node1", "node2")
#: As whom the tasks of each node run.
TASK_USER = {"node1": "haku", "node2": "worker"}
UIDS = {"haku": 1000, "worker": 1001, "lin": 1002}
MIB = 1 << 20
#: Seconds in which everything that was submitted together has ended, however slow the machine.
PATIENCE = 150.0

#: A task that tells what holds for it, in sections that `Run.sections` reads.
PROBE = r"""
section() { printf '\n=== %s\n' "$1"; }
section environment; cat /proc/$$/environ
section arguments; printf '%s\0' "$@"
section facts
own=/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup)
for name in cpu.max memory.max memory.swap.max pids.max; do
  read -r value < "$own/$name" && echo "$name=$value"
done
sed -n 's/^\([A-Za-z_]*\):[[:space:]]*/\1=/p' /proc/self/status
numactl --show | sed 's/^/numactl./; s/: */=/'
echo "pid=$$"; echo "where=$(pwd)"
section input; cat
section descriptors; ls /proc/self/fd
section network; cat /proc/net/dev
section processes; cat /proc/[0-9]*/comm
: > "made by $HAKURIVER_NODE"; exit 0
"""

_T = TypeVar("_T")


@dataclass(frozen=True)
class Job:
    """A task to be made for any node: a command, or the text of a script."""

    words: tuple[str, ...]
    options: RunOptions
    numa: int | None = None
    script: str | None = None

    def request(self, node: str) -> SubmitRequest:
        target = node if self.numa is None else f"{node}:{self.numa}"
        options: RunOptions = {"cores": 0, **self.options, "target": target}
        if self.script is None:
            return command_request(self.words, **options)
        return script_request(self.script, self.words, interpreter="sh", **options)


def words(*command: str, numa: int | None = None, **options: Unpack[RunOptions]) -> Job:
    """Return a job of one command; it has no share of the cores unless it asks for one."""
    return Job(command, options, numa)


def sh(text: str, *arguments: str, numa: int | None = None, **options: Unpack[RunOptions]) -> Job:
    """Return a job of one line for the shell."""
    return words("sh", "-c", text, "sh", *arguments, numa=numa, **options)


def script(
    text: str, *arguments: str, numa: int | None = None, **options: Unpack[RunOptions]
) -> Job:
    """Return a job of a script for the shell."""
    return Job(arguments, options, numa, text)


@dataclass
class Run:
    """One task on its machine."""

    lab: Lab
    node: str
    task: Task

    @property
    def task_id(self) -> str:
        return self.task.task_id

    @property
    def unit(self) -> str:
        """The name of its systemd unit."""
        name = self.task.status().systemd_unit_name
        assert name, self.task.status()
        return name

    def now(self) -> TaskView:
        """Return what the host says at this moment."""
        return self.task.status()

    @cached_property
    def view(self) -> TaskView:
        """The task in its final state, for which this waits."""
        return there(self.final, timeout=PATIENCE)

    def final(self) -> TaskView | None:
        """Return the task if the host says now that it has ended.

        Its future is no witness: it is done as soon as the node is silent for too long.
        """
        view = self.now()
        return view if view.status in FINAL else None

    @property
    def end(self) -> tuple[str, int | None]:
        """Final state and exit code."""
        return self.view.status.value, self.view.exit_code

    @property
    def reason(self) -> str:
        """Why it ended so, in small letters."""
        return (self.view.reason or "").lower()

    @property
    def seconds(self) -> float:
        """How long it ran, as its node tells."""
        seconds = TaskResult.of(self.view).seconds
        assert seconds is not None, self.view
        return seconds

    @property
    def usage(self) -> Usage:
        assert self.view.usage is not None, self.view
        return self.view.usage

    @cached_property
    def out(self) -> str:
        """Everything it has written, when it has ended."""
        assert self.view.status in FINAL
        return self.text()

    @cached_property
    def errors(self) -> str:
        assert self.view.status in FINAL
        return self.text("stderr")

    def text(self, stream: str = "stdout") -> str:
        """Return what it has written up to now."""
        return self.lab.cluster.output(self.task_id, stream).decode("utf-8", "surrogateescape")

    def wait_for(self, text: str, *, stream: str = "stdout", timeout: float = PATIENCE) -> None:
        """Wait until the task has written `text`."""

        def there() -> bool:
            # In this order: what it wrote before its end is there after it. And a look at a log
            # is work for the machine, which has enough to do while it starts the tasks.
            view = self.now()
            if view.status in {"pending", "assigning"}:
                return False
            shown = self.text(stream)
            assert text in shown or view.status not in FINAL, (view, shown)
            return text in shown

        wait_until(there, timeout=timeout, interval=0.3, what=f"{text!r} of {self.task_id}")

    def kill(self) -> None:
        self.lab.client.kill(self.task_id)

    @cached_property
    def sections(self) -> dict[str, str]:
        """What a `PROBE` told, section by section."""
        assert self.end == ("completed", 0), (self.view, self.errors)
        parts = re.split(r"\n=== (\w+)\n", self.out)
        return dict(zip(parts[1::2], parts[2::2], strict=True))

    @property
    def facts(self) -> dict[str, str]:
        pairs = (line.split("=", 1) for line in self.sections["facts"].splitlines())
        return {name: value.strip() for name, value in pairs}

    @property
    def environment(self) -> dict[str, str]:
        *pairs, rest = self.sections["environment"].split("\0")
        assert rest == ""
        return dict(pair.split("=", 1) for pair in pairs)


#: Runs by node and by the job's name.
Runs = dict[tuple[str, str], Run]


def start(lab: Lab, jobs: Mapping[str, Job], nodes: Iterable[str] = NODES) -> Runs:
    """Submit every job for every node, all at once."""
    keys = [(node, name) for node in nodes for name in jobs]
    batches = lab.client.submit_many([jobs[name].request(node) for node, name in keys])
    runs: Runs = {}
    for (node, name), batch in zip(keys, batches, strict=True):
        (task,) = batch
        runs[node, name] = Run(lab, node, task)
    return runs


def end(runs: Runs, *, timeout: float = PATIENCE) -> Runs:
    """Wait until all have ended, however; what has not is told with its state."""
    deadline = time.monotonic() + timeout
    left = dict(runs)
    while left and time.monotonic() < deadline:
        # Ended or not, for what is lost may come back.
        wait([run.task for run in left.values()], timeout=1)
        left = {key: run for key, run in left.items() if run.final() is None}
        time.sleep(0.2)
    assert not left, {key: run.now() for key, run in left.items()}
    return runs


def on_both(call: Callable[[str], _T], names: Sequence[str] = NODES) -> dict[str, _T]:
    """Call with each name at the same time: both machines work, not one after the other."""
    with ThreadPoolExecutor(len(names)) as pool:
        return dict(zip(names, pool.map(call, names), strict=True))


def leftovers(machine: Machine, *runs: Run) -> str:
    """Return what is left of tasks in a machine: processes that know their ids, and cgroups."""
    ids = "|".join(run.task_id for run in runs)
    units = [shlex.quote(run.unit) for run in runs if run.now().systemd_unit_name]
    names = " -o ".join(f"-name {unit}" for unit in units) or "-false"
    look = (
        f"for p in $(grep -lsaE 'HAKURIVER_TASK_ID=({ids})' /proc/[0-9]*/environ); do "
        "p=${p%/environ}; tr '\\0' ' ' < $p/cmdline; grep -E '^(Pid|State)' $p/status; done 2>&1; "
        f"find /sys/fs/cgroup -type d '(' {names} ')'"
    )
    return machine.run(look, check=False).stdout


def fact(machine: Machine, command: str | Sequence[str], **options: Any) -> str:
    """Return what a command in a machine prints, without the newline at its end."""
    return machine.run(command, **options).stdout.rstrip("\n")


def wait_until_none_failed(machine: Machine) -> None:
    """Wait until systemd knows of no unit that has failed: tasks' are forgotten in a moment."""

    def failed() -> str:
        return fact(machine, "systemctl --failed --no-legend --no-pager")

    wait_until(lambda: not failed(), timeout=120, interval=0.5, what=f"no failed unit: {failed()}")


def unit_cgroup(machine: Machine, run: Run) -> str:
    """Return the folder of a running task's unit below /sys/fs/cgroup."""
    found = fact(machine, f"find /sys/fs/cgroup -type d -name {shlex.quote(run.unit)}")
    assert len(found.splitlines()) == 1, found
    return found


def runner_pid(machine: Machine) -> int:
    """Return the main process of the runner's service."""
    shown = fact(machine, "systemctl show -P MainPID hakuriver-runner.service")
    assert re.fullmatch(r"[1-9]\d*", shown), shown
    return int(shown)


def there(probe: Callable[[], _T | None], *, timeout: float, interval: float = 0.3) -> _T:
    """Return the first value of `probe` that is not None."""
    found = wait_until(probe, timeout=timeout, interval=interval)
    assert found is not None
    return found
