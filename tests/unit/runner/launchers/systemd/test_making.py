from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hakuriver.runner.launchers.base import StartOrder
from hakuriver.runner.launchers.systemd.making import Maker
from hakuriver.runner.launchers.systemd.manager import Account, Manager, Mode, sudo_rule
from hakuriver.runner.launchers.systemd.properties import (
    Kind,
    is_plain,
    task_of_unit,
    unit_name,
)

SECRET = "s3cret value"
ACCOUNT = Account("worker", 1001, 1002, "/home/worker")


def order(**changes: Any) -> StartOrder:
    fields: dict[str, Any] = {
        "id": 7,
        "argv": ("prog", "$HOME", "%n", "a b"),
        "env": {"SECRET": SECRET},
        "cwd": "/w",
        "stdout": "/o",
        "stderr": "/e",
        "cpus": (),
        "numa_node": None,
        "grace": 5.0,
    }
    return StartOrder(**fields | changes)


def made(
    *, mode: Mode = Mode.ROOT, version: int = 257, kind: Kind = "service", **changes: Any
) -> list[str]:
    maker = Maker(Manager(mode, version, ACCOUNT), kind, 500, Path("/u/record.sh"), "/py")
    return maker.command(order(**changes), Path("/u/orders/7"), Path("/u/exits/7"))


def properties(words: list[str]) -> dict[str, str]:
    lines = [word.removeprefix("--property=") for word in words if word.startswith("--property=")]
    return dict(line.split("=", 1) for line in lines)


@pytest.mark.parametrize("kind", ["service", "scope"])
@pytest.mark.parametrize("mode", list(Mode))
def test_nothing_of_the_task_stands_on_the_command_line(mode: Mode, kind: Kind) -> None:
    words = " ".join(made(mode=mode, kind=kind))
    assert SECRET not in words
    assert "prog" not in words
    assert "/u/orders/7" in words


@pytest.mark.parametrize(
    ("mode", "start"),
    [
        (Mode.ROOT, ["systemd-run"]),
        (Mode.SUDO, ["sudo", "-n", "systemd-run"]),
        (Mode.USER, ["systemd-run", "--user"]),
    ],
)
def test_each_mode_has_its_way(mode: Mode, start: list[str]) -> None:
    words = made(mode=mode)
    assert words[: len(start)] == start
    assert f"--unit={unit_name(7, 'service')}" in words
    # It is never root's for longer than it takes to become the task's user.
    inner = words[words.index("--") + 1 :]
    assert inner[0] == "setpriv"
    assert ("--reuid=1001" in inner) == (mode is not Mode.USER)
    assert "--no-new-privs" in inner


def test_limits_are_properties() -> None:
    given_ = properties(made(cores=2, memory_limit=1 << 30, time_limit=0.25, grace=30.0))
    assert given_["CPUQuota"] == "200%"
    assert given_["MemoryMax"] == str(1 << 30)
    assert given_["MemorySwapMax"] == "0"
    assert given_["TasksMax"] == "500"
    assert given_["RuntimeMaxSec"] == "250ms"
    assert given_["TimeoutStopSec"] == "30.000"
    assert given_["NoNewPrivileges"] == "yes"


def test_what_was_not_asked_for_is_not_there() -> None:
    given_ = properties(made())
    assert not {"CPUQuota", "MemoryMax", "RuntimeMaxSec", "PrivateNetwork"} & given_.keys()
    # Zero would be without end, and the record needs some seconds as well.
    assert properties(made(grace=0.0))["TimeoutStopSec"] == "5.000"


@pytest.mark.parametrize(("version", "native"), [(252, False), (256, False), (257, True)])
def test_process_ids_of_its_own_by_systemd_or_by_unshare(version: int, native: bool) -> None:  # noqa: FBT001
    words = made(version=version, private_pid=True)
    assert (properties(words).get("PrivatePIDs") == "yes") is native
    assert ("unshare" in words) is not native
    # Root alone may unshare: it comes before the change of user.
    assert native or words.index("unshare") < words.index("setpriv")


@given(
    st.integers(min_value=0, max_value=64),
    st.none() | st.integers(min_value=1, max_value=1 << 50),
    st.none() | st.floats(min_value=1e-3, max_value=1e8),
    st.floats(min_value=0, max_value=86400),
)
def test_no_command_has_signs_that_systemd_252_mangles(
    cores: int, memory: int | None, seconds: float | None, grace: float
) -> None:
    words = made(cores=cores, memory_limit=memory, time_limit=seconds, grace=grace)
    stop_post = properties(words)["ExecStopPost"]
    assert not set(stop_post) & set("\"'$;%\\+:!@|&<>()")
    assert len(stop_post.split()) == 5


@given(st.integers(min_value=0), st.sampled_from(["service", "scope"]))
def test_a_unit_is_found_by_its_name(task_id: int, kind: Kind) -> None:
    assert task_of_unit(unit_name(task_id, kind), kind) == task_id


@pytest.mark.parametrize(
    "name",
    ["x.service", "hakuriver-task-.service", "hakuriver-task-7.scope", "hakuriver-task-x7.service"],
)
def test_other_units_are_no_tasks(name: str) -> None:
    assert task_of_unit(name, "service") is None


@pytest.mark.parametrize(
    ("path", "plain"),
    [("/var/lib/haku-river/n.1/@x", True), ("/a b", False), ("/a$b", False), ("/ä", False)],
)
def test_a_plain_path(path: str, plain: bool) -> None:  # noqa: FBT001
    assert is_plain(Path(path)) is plain


def test_the_sudo_rule_has_both_programs() -> None:
    rule = sudo_rule("haku")
    assert rule == "haku ALL=(ALL) NOPASSWD: /usr/bin/systemd-run, /usr/bin/systemctl"
