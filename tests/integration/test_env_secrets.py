from __future__ import annotations

import hashlib
import json
import secrets
import socket
import sqlite3
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from hakuriver.model.auth import runner_token
from support.looks import first_line
from support.processes import alive, pids, proc_bytes, wait_until
from support.streams import open_stream
from support.terminal import client_on_terminal

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.harness import Cluster

MIB = 1 << 20


#: Needs more memory than it is allowed.
HOG = "x = b'x' * (150 << 20); import time; time.sleep(60)"


@pytest.fixture
def value() -> str:
    """A secret that nobody else knows, so that it is found wherever it lies."""
    return secrets.token_hex(16)


def _holders(cluster: Cluster, value: str) -> list[str]:
    """Return the files of the cluster that hold `value`: store, write-ahead log, journal, logs."""
    found = []
    for path in cluster.root.rglob("*"):
        if path.is_file() and not path.is_symlink():
            try:
                content = path.read_bytes()
            except FileNotFoundError:  # of a task that has just ended
                continue
            if value.encode() in content:
                found.append(str(path))
    return found


def _sha1(text: str) -> str:
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def _forgotten(cluster: Cluster, value: str) -> None:
    """Fail unless, soon, no file of a live cluster holds `value` any more."""
    try:
        wait_until(lambda: not _holders(cluster, value), interval=0.2)
    except AssertionError:
        raise AssertionError(f"the value is in {_holders(cluster, value)} still") from None


def _start_with_log_files(make_cluster: Callable[..., Cluster], form: str = "text") -> Cluster:
    cluster = make_cluster(
        nodes={"node1": "0"},
        settings={"paths": {"host_log_file": "~/host.log", "runner_log_file": "~/runner.log"}},
        options=["--log-format", form],
    )
    cluster.start()
    assert (cluster.home / "host.log").exists()
    return cluster


def test_a_value_from_the_environment_or_a_file_is_in_no_process_but_the_task(
    cluster: Cluster, value: str, tmp_path: Path
) -> None:
    file = tmp_path / "variables"
    file.write_text(f"B={value}\n", "utf-8")
    command = ("--target", "node1", "--env-file", str(file), "--wait")
    client = cluster.start_client(*command, "--", "sh", "-c", "echo $$; exec sleep 60")
    newest = wait_until(
        lambda: [task for task in cluster.unfinished() if task["status"] == "running"],
        what="the task runs",
    )
    own = int(first_line(cluster, newest[0]["task_id"]))
    for pid in pids():
        assert value.encode() not in proc_bytes(pid, "cmdline"), pid
        assert pid == own or value.encode() not in proc_bytes(pid, "environ"), pid
    assert value.encode() in proc_bytes(own, "environ")
    assert client.poll() is None


def test_a_value_taken_from_the_environment_is_on_no_command_line(
    cluster: Cluster, value: str
) -> None:
    command = ("--target", "node1", "--env", "SECRET", "--wait", "--follow", "--")
    done = cluster.run_client(
        *command, "sh", "-c", 'echo "<$SECRET>"; ps -ef 2>/dev/null', env={"SECRET": value}, check=0
    )
    # The task may print what it likes: there it stands once, and in no process list.
    assert done.stdout.count(value) == 1
    assert value not in done.stderr


def test_a_value_is_in_nothing_that_the_client_prints(
    cluster: Cluster, value: str, tmp_path: Path
) -> None:
    file = tmp_path / "variables"
    file.write_text(f"SECRET={value}\n", "utf-8")
    options = ("--target", "node1", "--env-file", str(file))
    shown = [cluster.run_client(*options, "--wait", "--", "true", check=0)]
    shown.append(cluster.run_client(*options, "--json", "--", "sleep", "60", check=0))
    (task_id,) = json.loads(shown[-1].stdout)["task_ids"]
    cluster.wait(task_id, "running")
    for query in (
        *(["--status", task_id], ["--list-tasks"], ["--list-tasks", "--mine"], ["--list-nodes"]),
        *(["--health"], ["--kill", task_id], ["--logs", task_id]),
    ):
        shown += [cluster.run_client(*query), cluster.run_client(*query, "--json")]
    cluster.wait(task_id, "killed")
    shown.append(cluster.run_client("--rerun", task_id))
    shown.append(cluster.run_client(*options, "--cores", "1000", "--", "true"))
    shown.append(cluster.run_client("--env", f"1BAD={value}", "--", "true"))
    shown.append(cluster.run_client("--rerun", task_id, "--env", f"BAD-NAME={value}"))
    assert not [done.args for done in shown if value in done.stdout + done.stderr]


def test_a_value_is_in_no_live_view(cluster: Cluster, value: str) -> None:
    client = cluster.start_client("--watch", "--json")
    with (
        open_stream(cluster) as feed,
        client_on_terminal(cluster, "--watch", columns=200) as terminal,
    ):
        feed.read_line()
        terminal.read_until(lambda text: "node1" in text)
        task_id = cluster.submit("true", env_vars={"SECRET": value}, name="watched-secret")
        feed.read_until(lambda feed: "completed" in feed.states_of(task_id))
        terminal.read_until(lambda text: "watched-secret" in text)
        assert value not in json.dumps(feed.events)
        assert value not in terminal.shown
        masked = [event["task"]["env_vars"] for event in feed.events if "task" in event]
        assert masked
        assert all(views == {"SECRET": "***"} for views in masked)
    client.terminate()
    assert client.stdout is not None
    assert value.encode() not in client.stdout.read()


def test_an_error_does_not_repeat_a_value(cluster: Cluster, value: str) -> None:
    ended = cluster.run("true", env_vars={"SECRET": value})["task_id"]
    bodies: list[tuple[str, Any]] = [
        ("submit", {"command": "true", "env_vars": {"A": f"{value}\0"}}),
        ("submit", {"command": "true", "env_vars": {"A": [value]}}),
        ("submit", {"command": "true", "env_vars": f"A={value}"}),
        ("submit", {"command": "true", "env_vars": {"A": value}, "targets": ["nosuch"]}),
        ("submit", {"command": "true", "env_vars": {"A": value}, "required_cores": 9999}),
        ("submit-many", {"submissions": [{"command": "", "env_vars": {"A": value}}]}),
        ("submit-many", {"submissions": [{"command": "c", "env_vars": {"A B": value}}]}),
        (f"rerun/{ended}", {"env_vars": {"A": f"{value}\0"}}),
        (f"rerun/{ended}", {"env_vars": value}),
        (f"rerun/{ended}", {}),
    ]
    for path, body in bodies:
        reply = cluster.http("POST", f"/api/{path}", body=body)
        assert reply.status != 500, path
        assert value not in reply.body.decode(), path


@pytest.mark.parametrize("form", ["text", "json"])
def test_live_daemons_forget_the_values_of_tasks_however_they_end(
    make_cluster: Callable[..., Cluster], value: str, form: str
) -> None:
    cluster = _start_with_log_files(make_cluster, form)
    variables = {"SECRET": value}
    running = cluster.submit("sleep", "60", env_vars=variables, idempotency_key="a-key")
    waiting = cluster.submit("true", env_vars=variables)
    cluster.wait(running, "running")
    assert _holders(cluster, value), "the value is nowhere even while it is needed"
    for task_id in (waiting, running):
        assert cluster.http("POST", f"/api/kill/{task_id}").status == 202
        cluster.wait(task_id, "killed")
    cluster.run("/no/such/program", env_vars=variables)
    cluster.run("true", env_vars=variables, working_directory="/no/such/folder")
    cluster.run("sleep", "60", env_vars=variables, time_limit_seconds=0.2)
    cluster.wait(cluster.script(HOG, env_vars=variables, required_memory_bytes=64 * MIB))
    cluster.run("sh", "-c", "kill -SEGV $$", env_vars=variables)
    many = {"submissions": [{"command": "true", "env_vars": variables, "targets": ["node1"]}] * 3}
    for answer in cluster.post("/api/submit-many", many, status=200)["answers"]:
        cluster.wait(answer["reply"]["task_ids"][0], "completed")
    again = cluster.post(f"/api/rerun/{waiting}", {"env_vars": variables})
    cluster.wait(again["task_ids"][0], "completed")
    _forgotten(cluster, value)
    assert cluster.status(running)["env_vars"] == {"SECRET": "***"}


def test_a_batch_keeps_its_values_for_its_last_task_and_no_longer(
    make_cluster: Callable[..., Cluster], value: str
) -> None:
    cluster = _start_with_log_files(make_cluster)
    # The task tells by its exit code alone that it was given the value.
    compare = f"""test "$(printf %s "$SECRET" | sha1sum | cut -c1-40)" = {_sha1(value)}"""
    variables = {"SECRET": value}
    reply = cluster.submit_batch("sh", "-c", compare, targets=["node1"] * 3, env_vars=variables)
    for task_id in reply["task_ids"]:
        cluster.wait(task_id, "completed")
    _forgotten(cluster, value)


def test_a_value_is_forgotten_after_a_crash_of_host_and_runner(
    make_cluster: Callable[..., Cluster], value: str
) -> None:
    cluster = _start_with_log_files(make_cluster)
    script = "echo $$; sleep 1"
    task_id = cluster.submit("sh", "-c", script, env_vars={"SECRET": value})
    pid = int(first_line(cluster, task_id))
    cluster.kill("host", "node1")
    wait_until(lambda: not alive(pid), what="the task ends while nobody looks")
    cluster.restart("host", "node1")
    assert cluster.wait(task_id)["status"] == "completed"
    _forgotten(cluster, value)


def _send(cluster: Cluster, header: str) -> bytes:
    """Ask for the nodes with one header, right or wrong; return the beginning of the answer."""
    request = f"GET /api/nodes HTTP/1.1\r\nHost: 127.0.0.1:{cluster.port}\r\n{header}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", cluster.port), timeout=60) as connection:
        connection.sendall(request.encode())
        return connection.recv(1 << 16)


def _text_with(file: Path, words: list[str]) -> str:
    """Return the text of a log file, empty unless it holds all words and ends with a line."""
    text = file.read_text("utf-8")
    return text if text.endswith("\n") and all(word in text for word in words) else ""


def _garble(cluster: Cluster, task_id: str, content: str) -> None:
    """Let the host fail whenever it reads this task."""
    (file,) = cluster.state_dir("host").rglob("*.db")
    with closing(sqlite3.connect(file, timeout=60)) as database, database:
        select = "SELECT batch_id FROM task WHERE id = ?"
        change = f"UPDATE batch SET spec = ? WHERE id = ({select})"
        database.execute(change, (b"\xc1" + content.encode(), int(task_id)))


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_log_holds_a_secret_whatever_goes_wrong(
    make_cluster: Callable[..., Cluster], value: str, form: str
) -> None:
    cluster = _start_with_log_files(make_cluster, form)
    cluster.expect_trouble("Uncaught exception in ", "Traceback", ": 500")
    variables = {"SECRET": value}
    wrong = secrets.token_hex(16)
    ended = cluster.run("/no/such/program", env_vars=variables)["task_id"]
    cluster.run("true", env_vars=variables, working_directory="/no/such/folder")
    # Requests that are refused, that cannot be read, and that make the host fail.
    runners = runner_token(cluster.runner_secret, "node1")
    for token in (cluster.token, cluster.second_token, runners, cluster.runner_secret, wrong):
        assert _send(cluster, f"Authorization: Bearer {token}\x01").startswith(b"HTTP/1.1 400 ")
        assert _send(cluster, f"Content-Length: {token}").startswith(b"HTTP/1.1 400 ")
        assert _send(cluster, f"Authorization: Basic {token}").startswith(b"HTTP/1.1 401 ")
        assert cluster.http("GET", f"/api/nodes?token={token}", token=wrong).status == 401
    _garble(cluster, ended, value)
    query = f"token={cluster.token}&secret={value}"
    assert cluster.http("GET", f"/api/status/{ended}?{query}").status == 500
    body = {"env_vars": variables}
    assert cluster.http("POST", f"/api/rerun/{ended}?{query}", body=body).status == 500
    # A runner whose token is refused.
    cluster.runners["node1"].stop()
    config = cluster.root / "node1.toml"
    config.write_text(config.read_text("utf-8").replace(cluster.runner_secret, wrong), "utf-8")
    cluster.start_runner("node1")
    wait_until(lambda: "trying on" in cluster.runners["node1"].text(), what="it is refused")
    kept = [value, wrong, cluster.token, cluster.second_token, cluster.runner_secret, runners]
    kept += [runner_token(wrong, "node1"), cluster.private_value]
    for name, words in (("host", ["Malformed", "Traceback"]), ("runner", ["linked", "trying on"])):
        file = cluster.home / f"{name}.log"
        # The file has each line a moment after stderr.
        text = wait_until(partial(_text_with, file, words), what=f"{words} in {file}")
        assert not [secret for secret in kept if secret in text]
        daemon = cluster.host if name == "host" else cluster.runners["node1"]
        assert not [secret for secret in kept if secret in daemon.text()]
        if form == "json":
            assert all("message" in json.loads(line) for line in text.splitlines())
