from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import msgspec
import psutil
import pytest

from hakuriver.embedded import processes
from hakuriver.embedded.processes import Daemon, end, spawn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WAITING = "import signal; print('up', flush=True); signal.pause()"
STUBBORN = f"import signal; signal.signal(15, signal.SIG_IGN); {WAITING}"


@pytest.fixture
def children() -> Iterator[list[subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for child in started:
        child.kill()
        child.communicate()


def daemon(children: list[subprocess.Popen[bytes]], code: str = WAITING) -> Daemon:
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    children.append(child)
    assert child.stdout is not None
    assert child.stdout.readline() == b"up\n"
    return Daemon(child.pid, psutil.Process(child.pid).create_time())


def test_a_running_one_is_found(children: list[subprocess.Popen[bytes]]) -> None:
    found = daemon(children)
    process = found.find()
    assert process is not None
    assert process.pid == found.pid


def test_another_process_of_the_same_id_is_not_it(children: list[subprocess.Popen[bytes]]) -> None:
    found = daemon(children)
    reused = msgspec.structs.replace(found, started=found.started - 60)
    assert reused.find() is None
    end([reused])
    assert children[0].poll() is None


def test_one_that_has_ended_is_not_found(children: list[subprocess.Popen[bytes]]) -> None:
    found = daemon(children)
    os.kill(found.pid, signal.SIGKILL)
    # Before it is waited for it is a zombie, after it is gone.
    os.waitid(os.P_PID, found.pid, os.WEXITED | os.WNOWAIT)
    assert found.find() is None
    children[0].wait()
    assert found.find() is None
    assert Daemon(1 << 22, 0.0).find() is None


def test_all_are_ended(children: list[subprocess.Popen[bytes]]) -> None:
    found = [daemon(children) for _ in range(2)]
    end([Daemon(1 << 22, 0.0), *found])
    assert [one.find() for one in found] == [None, None]
    end(found)


def test_whoever_does_not_listen_is_killed(
    children: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_STOP_SECONDS", 0.2)
    found = daemon(children, STUBBORN)
    end([found])
    assert found.find() is None


def spawn_and_wait(arguments: list[str], log: Path) -> Daemon:
    started = spawn(arguments, log)
    _, status = os.waitpid(started.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    return started


def test_a_daemon_is_on_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HAKURIVER_NETWORK_NOTHING", "would be refused")
    log = tmp_path / "log"
    spawn_and_wait(["--help"], log)
    # A command that prints and ends, for want of one that stays without a cluster.
    started = spawn_and_wait(["--version"], log)
    assert log.read_text("utf-8").startswith("hakuriver-jupyter ")
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert os.getsid(0) != started.pid


def test_settings_in_the_callers_environment_do_not_reach_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HAKURIVER_SECURITY_AUTH", "none")
    monkeypatch.setenv("OTHER", "x")
    environment = processes._environment()
    assert "HAKURIVER_SECURITY_AUTH" not in environment
    assert environment["OTHER"] == "x"
