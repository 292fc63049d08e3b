"""What units can hold on this machine: tried out in units like those of tasks, looked at inside.

What systemd is told to do and what holds are two things: it passes over limits whose controller
it has not been given, and over namespaces that the kernel forbids.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from hakuriver.runner.launchers.base import StartOrder
from hakuriver.runner.launchers.systemd import examine
from hakuriver.runner.launchers.systemd.making import OWN_PIDS_SINCE, Maker
from hakuriver.runner.launchers.systemd.manager import Mode, Obstacle, call, sudo_rule

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hakuriver.runner.launchers.systemd.manager import Manager

_MEMORY = 256 << 20
_CGROUP = Path("/sys/fs/cgroup")


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What the inside of a unit saw; see `examine`."""

    uid: int
    groups: list[int]
    no_new_privs: bool
    cgroup: str
    limits: dict[str, str]
    net: str
    pid: str
    own_proc: bool
    denied: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What came out: an `Obstacle` for each thing that units cannot do here, None where they can.

    `slice_folder` is the control group of all tasks.
    """

    slice_folder: Path
    denied: tuple[str, ...]
    memory_limit: Obstacle | None
    cpu_quota: Obstacle | None
    process_limit: Obstacle | None
    private_network: Obstacle | None
    private_pid: Obstacle | None


def attempt(maker: Maker, *, paths: Sequence[str]) -> Trial | Obstacle:
    """Try units out; return an `Obstacle` if there can be none at all.

    `paths` are folders in which tasks must be able to write, and programs that they must be able
    to run. Takes a few units' time.
    """
    manager = maker.manager
    facts, network, pids = _looks(maker, paths)
    if isinstance(facts, str):
        return Obstacle(
            f"systemd starts no unit for {manager.account.name}: {facts}",
            f"let {manager.account.name} read and run {sys.executable} and this package",
        )
    if facts.uid != manager.account.uid or not facts.no_new_privs:
        return Obstacle("systemd leaves tasks rights that they must not have", "none known")
    return Trial(
        slice_folder=_CGROUP / facts.cgroup.strip("/").rpartition("/")[0],
        denied=tuple(facts.denied),
        memory_limit=_unlimited(facts, "memory.max", str(_MEMORY), "memory"),
        cpu_quota=_unlimited(facts, "cpu.max", "100000 100000", "cpu"),
        process_limit=_unlimited(facts, "pids.max", str(maker.tasks_max), "pids"),
        private_network=_isolated(manager, network, "net", "private_network"),
        private_pid=_isolated(manager, pids, "pid", "private_pid"),
    )


_Look = Facts | str


def _looks(maker: Maker, paths: Sequence[str]) -> tuple[_Look, _Look, _Look]:
    """Return what a plain unit sees, one with a network, and one with process ids of its own.

    One unit with everything says it all, where it can be had.
    """
    seen = _look_inside(maker, "all", paths, private_network=True, private_pid=True)
    if isinstance(seen, Facts) and _is_apart(seen, "net") and _is_apart(seen, "pid"):
        return seen, seen, seen
    with ThreadPoolExecutor(3) as threads:
        base = threads.submit(_look_inside, maker, "limits", paths)
        network = threads.submit(_look_inside, maker, "network", paths, private_network=True)
        pids = threads.submit(_look_inside, maker, "pids", paths, private_pid=True)
    return base.result(), network.result(), pids.result()


def _is_apart(seen: Facts, kind: str) -> bool:
    """Whether what was seen was seen in a namespace of its own."""
    outside = os.readlink(f"/proc/self/ns/{kind}")  # noqa: PTH115
    return getattr(seen, kind) != outside and (kind == "net" or seen.own_proc)


def _look_inside(maker: Maker, name: str, paths: Sequence[str], **isolation: bool) -> _Look:
    """Return what a unit sees, or why there is none."""
    order = StartOrder(
        private_network=isolation.get("private_network", False),
        private_pid=isolation.get("private_pid", False),
        id=0,
        argv=(),
        env={},
        cwd="/",
        stdout="",
        stderr="",
        cpus=(),
        numa_node=None,
        grace=0.0,
        memory_limit=_MEMORY,
        cores=1,
    )
    program = (maker.python, "-I", "-S", examine.__file__, *paths)
    unit = f"hakuriver-trial-{os.getpid()}-{name}.service"
    outcome = call(
        *maker.service(
            order,
            Path(os.devnull),
            program,
            *("--wait", "--pipe", "--collect", f"--unit={unit}"),
        )
    )
    try:
        return msgspec.json.decode(outcome.stdout, type=Facts)
    except msgspec.DecodeError:
        return outcome.words


def _unlimited(facts: Facts, file: str, expected: str, controller: str) -> Obstacle | None:
    seen = facts.limits.get(file) or "no such file"
    if seen == expected:
        return None
    return Obstacle(
        f"the {controller} controller of cgroup v2 is not at work for tasks ({file}: {seen})",
        "boot with cgroup v2 (systemd.unified_cgroup_hierarchy=1), and for a user's own manager "
        f"delegate the controller: Delegate={controller} in a drop-in of user@.service",
    )


def _isolated(manager: Manager, seen: _Look, kind: str, what: str) -> Obstacle | None:
    """Return why a namespace cannot be had, None if the unit was in one of its own."""
    words = what.replace("_", " ")
    if not isinstance(seen, str):
        if _is_apart(seen, kind):
            return None
        seen = "the kernel gives units no namespace of their own"
    mend = "none known"
    reason = f"{words} fails here: {seen}"
    if manager.mode is Mode.USER:
        reason = f"{words}: a user's own systemd manager may not give it ({seen})"
        mend = f"echo '{sudo_rule(manager.account.name)}' | sudo tee /etc/sudoers.d/hakuriver"
    elif kind == "pid" and manager.version < OWN_PIDS_SINCE:
        reason = (
            f"{words} needs systemd {OWN_PIDS_SINCE} (found {manager.version}), or unshare and "
            f"setpriv of util-linux: {seen}"
        )
        mend = "sudo apt-get install util-linux"
    return Obstacle(reason, mend)
