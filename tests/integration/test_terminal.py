from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from contextlib import suppress
from typing import TYPE_CHECKING

from support.harness import ids_in

if TYPE_CHECKING:
    from support.harness import Cluster


def _on_terminal(cluster: Cluster, *args: str, **variables: str) -> str:
    """Return what the client shows on a terminal of eighty columns."""
    master, slave = pty.openpty()
    try:
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        process = subprocess.Popen(
            [sys.executable, "-m", "hakuriver", "client", "-c", str(cluster.config), *args],
            env={**cluster.env, "TERM": "xterm", **variables},
            cwd=cluster.root,
            stdin=slave,
            stdout=slave,
            stderr=slave,
        )
        os.close(slave)
        shown = b""
        # Reading from a terminal that its last writer has left is an error on Linux.
        with suppress(OSError):
            while block := os.read(master, 65536):
                shown += block
        assert process.wait(60) == 0, shown
        return shown.decode().replace("\r\n", "\n")
    finally:
        os.close(master)


def test_a_terminal_gets_colours_unless_it_wants_none(cluster: Cluster) -> None:
    assert "\x1b[" in _on_terminal(cluster, "--list-nodes")
    assert "\x1b[" not in _on_terminal(cluster, "--list-nodes", NO_COLOR="1")


def test_json_on_a_terminal_has_no_colours(cluster: Cluster) -> None:
    assert "\x1b[" not in _on_terminal(cluster, "--list-nodes", "--json")


def test_a_narrow_table_keeps_its_lines_and_whole_ids(cluster: Cluster) -> None:
    task = cluster.run("echo", "x" * 200, name="n" * 150)
    shown = _on_terminal(cluster, "--list-tasks", "--limit", "1", NO_COLOR="1")
    assert max(len(line) for line in shown.splitlines()) <= 80
    assert ids_in(shown) == [task["task_id"]]
