from __future__ import annotations

import os
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from hakuriver.runner.launchers.processes import (
    descendants,
    kill_round,
    look_at,
    processes,
    send_signals,
    task_of,
)
from support.runner_tools import PATH, alive, tree_of, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def shell() -> Iterator[subprocess.Popen[bytes]]:
    script = "sleep 1000 & setsid sleep 1000 & wait"
    env = {"PATH": PATH, "HAKURIVER_TASK_ID": "12"}
    process = subprocess.Popen(["sh", "-c", script], env=env)
    tree = tree_of(process.pid, 3)
    table = processes()
    yield process
    for pid in tree:
        send_signals(pid, table[pid].start, signal.SIGKILL)
    process.wait()
    wait_until(lambda: not [pid for pid in tree if alive(pid)])


def test_a_process_as_the_kernel_tells_it() -> None:
    own = look_at(os.getpid())
    assert own is not None
    assert own.parent == os.getppid()
    assert own.start == processes()[os.getpid()].start
    assert look_at(2**22 + 1) is None


def test_a_tree_is_found_and_ended(shell: subprocess.Popen[bytes]) -> None:
    tree = descendants([shell.pid], processes())
    assert len(tree) == 3
    assert {task_of(pid) for pid in tree} == {12}
    assert task_of(os.getpid()) is None
    kill_round([shell.pid])
    wait_until(lambda: not [pid for pid in tree if alive(pid)])


def test_a_later_process_with_the_same_pid_is_spared(shell: subprocess.Popen[bytes]) -> None:
    process = look_at(shell.pid)
    assert process is not None
    send_signals(shell.pid, process.start - 1, signal.SIGKILL)
    assert alive(shell.pid)
    send_signals(shell.pid, process.start, signal.SIGKILL)
    assert shell.wait() == -signal.SIGKILL
    send_signals(shell.pid, process.start, signal.SIGKILL)
