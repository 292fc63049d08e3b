from __future__ import annotations

import json
import re
import signal
from typing import TYPE_CHECKING, Any

import pytest

from support.looks import at_the_gate
from support.processes import wait_until
from support.terminal import client_on_terminal

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from support.harness import Cluster

_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Lines:
    """The lines that a client prints into a pipe, as they come."""

    def __init__(self, client: subprocess.Popen[bytes]) -> None:
        assert client.stdout is not None
        self.client = client
        self._out = client.stdout
        self.seen: list[str] = []

    def until(self, *words: str) -> str:
        """Return the next line that holds all `words`; the test's time-out bounds the wait."""
        for raw in self._out:
            line = raw.decode().rstrip("\n")
            self.seen.append(line)
            if all(word in line for word in words):
                return line
        raise AssertionError(f"no line with {words}: {self.seen}")


def _interrupt(client: subprocess.Popen[bytes]) -> int:
    client.send_signal(signal.SIGINT)
    return client.wait(60)


def test_watch_into_a_pipe_prints_a_line_for_each_change(cluster: Cluster) -> None:
    client = cluster.start_client("--watch")
    lines = Lines(client)
    first = cluster.submit("sleep", "60", name="first-one")
    lines.until(first, "running")
    cluster.run_client("--kill", first, check=0)
    lines.until(first, "killed")
    second = cluster.run("sh", "-c", "exit 3")["task_id"]
    lines.until(second, "failed")
    assert not [line for line in lines.seen if "\x1b" in line]
    assert _interrupt(client) == 0
    assert client.stderr is not None
    assert b"Traceback" not in client.stderr.read()


def test_watch_tells_of_nodes_that_change(cluster: Cluster) -> None:
    client = cluster.start_client("--watch")
    lines = Lines(client)
    lines.until("node1", "online")
    try:
        cluster.run_client("--drain", "node2", check=0)
        lines.until("node2", "drain")
    finally:
        cluster.run_client("--resume", "node2", check=0)
    assert _interrupt(client) == 0


def test_watch_as_json_prints_an_object_a_line(cluster: Cluster) -> None:
    client = cluster.start_client("--watch", "--json")
    lines = Lines(client)
    task_id = cluster.submit("true")
    lines.until(task_id, "completed")
    documents: list[Any] = [json.loads(line) for line in lines.seen]
    assert all(isinstance(document, dict) for document in documents)
    assert _interrupt(client) == 0


def test_watch_of_one_task_tells_its_states(cluster: Cluster, tmp_path: Path) -> None:
    busy = cluster.submit("sleep", "60")
    cluster.wait(busy, "running")
    waiting = cluster.submit(*at_the_gate(tmp_path / "gate"))
    client = cluster.start_client("--status", waiting, "--watch")
    lines = Lines(client)
    lines.until("pending")
    cluster.run_client("--kill", busy, check=0)
    lines.until("running")
    (tmp_path / "gate").touch()
    lines.until("completed")
    assert client.wait(60) == 0, "there is nothing more to tell"


def test_watch_of_a_filtered_list_shows_no_others(cluster: Cluster) -> None:
    client = cluster.start_client("--list-tasks", "--watch", "--name", "watched")
    lines = Lines(client)
    other = cluster.run("true", name="other")["task_id"]
    mine = cluster.run("true", name="watched")["task_id"]
    lines.until(mine, "completed")
    assert not [line for line in lines.seen if other in line]
    assert _interrupt(client) == 0


def test_watch_outlives_a_restart_of_the_host(fresh_cluster: Cluster) -> None:
    client = fresh_cluster.start_client("--watch")
    lines = Lines(client)
    first = fresh_cluster.submit("true")
    lines.until(first, "completed")
    fresh_cluster.host.stop()
    fresh_cluster.start_host()
    for name in fresh_cluster.nodes:
        fresh_cluster.wait_online(name)
    second = fresh_cluster.submit("true")
    lines.until(second, "completed")
    assert _interrupt(client) == 0


def test_watch_on_a_terminal_is_redrawn_and_ends_with_ctrl_c(cluster: Cluster) -> None:
    task_id = cluster.submit("sleep", "60", name="on-the-screen")
    cluster.wait(task_id, "running")
    with client_on_terminal(cluster, "--watch") as terminal:
        terminal.read_until(lambda text: "on-the-screen" in text and "node2" in text)
        drawn = len(terminal.shown)
        cluster.run_client("--kill", task_id, check=0)
        terminal.read_until(lambda text: "killed" in text[drawn:])
        later = cluster.submit("true", name="came-later")
        terminal.read_until(lambda text: "came-later" in text[drawn:])
        cluster.wait(later, "completed")
        assert "\x1b[" in terminal.shown
        terminal.press(b"\x03")
        terminal.read_to_end()
        assert terminal.process.returncode == 0
        assert "Traceback" not in terminal.shown
    # The cursor, if it was hidden, and the main screen, if it was left, are back at the end.
    assert terminal.shown.count("\x1b[?25l") <= terminal.shown.count("\x1b[?25h")
    assert terminal.shown.count("\x1b[?1049h") <= terminal.shown.count("\x1b[?1049l")


def test_watch_keeps_within_a_narrow_terminal(cluster: Cluster) -> None:
    task = cluster.run("echo", "x" * 300, name="n" * 150)
    with client_on_terminal(cluster, "--watch", columns=80, rows=12) as terminal:
        terminal.read_until(lambda text: "node2" in text and task["task_id"] in text)
        for line in _ANSI.sub("", terminal.shown).replace("\r", "\n").splitlines():
            assert len(line) <= 80, line
        terminal.press(b"\x03")
        terminal.read_to_end()
        assert terminal.process.returncode == 0


def test_watch_redraws_a_busy_cluster_a_few_times_a_second_at_most(cluster: Cluster) -> None:
    with client_on_terminal(cluster, "--watch") as terminal:
        terminal.read_until(lambda text: "node2" in text)
        drawn = len(terminal.shown)
        cluster.submit_batch("true", targets=["node1", "node2"] * 60, name="many")
        wait_until(lambda: not cluster.unfinished(), timeout=60, what="120 tasks ended")
        marker = cluster.run("true", name="the-last-one")
        terminal.read_until(lambda text: "the-last-one" in text and marker["task_id"] in text)
        shown = terminal.shown[drawn:]
        # Redrawn at each of the 360 changes it would have drawn a node's name as often.
        assert shown.count("node1") < 3000
        terminal.press(b"\x03")
        terminal.read_to_end()
        assert terminal.process.returncode == 0


@pytest.mark.parametrize("view", [["--list-nodes"], ["--health"], ["--list-tasks"]])
def test_every_table_can_be_kept_live_on_a_terminal(cluster: Cluster, view: list[str]) -> None:
    task_id = cluster.submit("sleep", "60", name="kept-live")
    cluster.wait(task_id, "running")
    word = "kept-live" if view == ["--list-tasks"] else "node2"
    with client_on_terminal(cluster, *view, "--watch") as terminal:
        terminal.read_until(lambda text: word in text)
        drawn = len(terminal.shown)
        cluster.run_client("--kill", task_id, check=0)
        terminal.read_until(lambda text: word in text[drawn:], what="drawn again")
        terminal.press(b"\x03")
        terminal.read_to_end()
        assert terminal.process.returncode == 0


def test_watch_of_an_unknown_task_is_told(cluster: Cluster) -> None:
    done = cluster.run_client("--status", "12345", "--watch")
    assert done.returncode not in {0, 2}
    assert "12345" in done.stderr


def test_a_reader_that_leaves_ends_the_watch_quietly(cluster: Cluster) -> None:
    client = cluster.start_client("--watch")
    lines = Lines(client)
    lines.until("node1")
    assert client.stdout is not None
    client.stdout.close()
    cluster.run("true")
    cluster.run("true")
    wait_until(lambda: client.poll() is not None, what="the watch ends with its reader")
    assert client.stderr is not None
    assert client.stderr.read() == b""
