from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from hakuriver.cli.client import main
from hakuriver.cli.tasks import submitting
from hakuriver.client import remote
from hakuriver.client.follow import Follow
from hakuriver.errors import HostUnreachable
from hakuriver.model.nodes import NodeStatus
from unit.client.fakes import FakeCluster, make_node, make_view

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hakuriver.client.futures import Task
    from hakuriver.model.submission import SubmitRequest
    from hakuriver.model.views import SubmitReply

    Run = Callable[..., tuple[int, str, str]]


class ScriptedCluster(FakeCluster):
    """Ends every task as its arguments say: text for stdout, text for stderr, exit code."""

    finishing = True

    async def submit(self, request: SubmitRequest) -> SubmitReply:
        reply = await super().submit(request)
        for task_id in reply.task_ids if self.finishing else ():
            out, err, code = (*request.arguments, "", "", "0")[:3]
            self.change(task_id, "running")
            self.write(task_id, out.encode("utf-8", "surrogateescape"))
            self.write(task_id, err.encode(), "stderr")
            self.finish(task_id, int(code or 0))
        return reply


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> ScriptedCluster:
    fake = ScriptedCluster()
    monkeypatch.setenv("HAKURIVER_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(remote.HttpCluster, "at", lambda _: fake)
    return fake


@pytest.fixture
def run(cluster: ScriptedCluster, capfd: pytest.CaptureFixture[str]) -> Run:
    del cluster

    def call(*arguments: str) -> tuple[int, str, str]:
        try:
            code = main(arguments)
        except SystemExit as leave:
            code = int(leave.code or 0)
        sys.stdout.flush()
        return (code, *capfd.readouterr())

    return call


def one_line(text: str) -> str:
    assert text.count("\n") == 1, text
    assert text.startswith("hakuriver.client: ")
    return text


def test_a_submission_tells_its_ids(run: Run, cluster: ScriptedCluster) -> None:
    assert run("--target", "node1", "--cores", "2", "--", "echo", "Basic Task") == (
        0,
        "task 1001 on node1\n",
        "",
    )
    (request,) = cluster.requests
    assert (request.command, request.arguments) == ("echo", ["Basic Task"])
    assert request.required_cores == 2


def test_what_follows_the_dashes_is_passed_on_as_it_is(run: Run, cluster: ScriptedCluster) -> None:
    words = ["", " ", "--", "--help", "-x", "$HOME", "${X}", "%n", "a\nb", "ä漢", "'\"\\"]
    cluster.finishing = False
    assert run("--", "prog", *words)[0] == 0
    assert cluster.requests[0].arguments == words


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give a command after --"),
        (["--"], "give a command after --"),
        (["--cores", "1", "--"], "give a command after --"),
        (["--cores", "-1", "--", "true"], "--cores"),
        (["--memory", "1X", "--", "true"], "--memory"),
        (["--env", "NOT_SET_ANYWHERE", "--", "true"], "NOT_SET_ANYWHERE is not set"),
        (["--no-such", "--", "true"], "--no-such"),
        (["echo", "hello"], "echo"),
        (["--", ""], "is empty"),
        (["--", "a\udcff"], "Unicode"),
        (["--list-nodes", "--", "true"], "--list-nodes"),
        (["--list-nodes", "--kill", "1"], "not allowed with"),
        (["--tail", "3", "--", "true"], "--tail goes with --logs"),
        (["--wait", "--list-nodes"], "--wait goes with a command"),
        (["--state", "running", "--status", "1"], "--state goes with --list-tasks"),
        (["--limit", "0", "--list-tasks"], "--limit"),
        (["--logs", "1", "--tail", "x"], "--tail"),
        (["--json", "--follow", "--", "true"], "--json"),
        (["--mine", "--", "true"], "--mine goes with --list-tasks"),
        (["--watch", "--", "true"], "a command goes without --watch"),
        (["--watch", "--kill", "1"], "--watch goes with --list-nodes"),
        (["--rerun", "1", "--cores", "2"], "--cores goes with a command"),
        (["--rerun", "1", "--env", "NOT_SET_ANYWHERE"], "NOT_SET_ANYWHERE is not set"),
        (["--list-tasks", "--node", ""], "--node"),
        (["--list-tasks", "--state", "nonsense"], "--state"),
        (["--list-tasks", "--name", "\udcff"], "--name"),
        (["--target", "", "--", "true"], "is empty"),
    ],
)
def test_usage_errors_exit_2_with_the_usage(
    run: Run, cluster: ScriptedCluster, arguments: list[str], words: str
) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("usage: hakuriver.client")
    assert words in err.splitlines()[-1]
    assert not cluster.requests


def test_help_and_version(run: Run) -> None:
    assert run("--help")[0] == 0
    code, out, _ = run("--version")
    assert (code, out.split()[0]) == (0, "hakuriver-jupyter")


def test_wait_tells_changes_and_exits_with_the_tasks_code(run: Run) -> None:
    code, out, err = run("--target", "node1", "--wait", "--", "x", "text", "", "4")
    assert (code, err) == (4, "")
    lines = out.splitlines()
    assert lines[0] == "task 1001 on node1"
    assert lines[-1] == "task 1001 on node1: failed (exit code 4)"
    assert len(lines) == len(set(lines))
    assert run("--wait", "--poll-interval", "2", "--", "x")[0] == 0


@pytest.mark.parametrize(
    ("status", "exit_code", "code"),
    [
        ("failed", 139, 139),
        ("failed", -11, 139),
        ("failed", None, 1),
        ("failed", 0, 1),
        ("killed", -15, 143),
        ("lost", None, 1),
        ("completed", 0, 0),
    ],
)
def test_wait_exits_with_something_for_every_end(
    run: Run, cluster: ScriptedCluster, status: str, exit_code: int | None, code: int
) -> None:
    cluster.finish = lambda task_id, _=0: cluster.change(  # type: ignore[method-assign, assignment]
        task_id, status, exit_code=exit_code
    )
    assert run("--wait", "--", "x")[0] == code


def test_several_tasks_exit_0_only_when_all_completed(run: Run) -> None:
    both = ("--target", "a", "--target", "b", "--wait", "--", "x")
    assert run(*both)[0] == 0
    assert run(*both, "", "", "7")[0] == 1


def test_follow_writes_the_output_byte_for_byte(
    cluster: ScriptedCluster, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    del cluster
    text = b"a\xff\r\x1b[31m\xe2\x82".decode("utf-8", "surrogateescape")
    original = FakeCluster.submit

    async def submit(self: FakeCluster, request: SubmitRequest) -> SubmitReply:
        reply = await original(self, request)
        (task_id,) = reply.task_ids
        self.write(task_id, text.encode("utf-8", "surrogateescape"))
        self.write(task_id, b"to stderr\n", "stderr")
        self.finish(task_id)
        return reply

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ScriptedCluster, "submit", submit)
        assert main(["--follow", "--", "x"]) == 0
    out, err = capfdbinary.readouterr()
    assert out == b"a\xff\r\x1b[31m\xe2\x82"
    assert b"to stderr\n" in err
    assert b"completed" in err


def test_follow_of_several_tasks_prefixes_their_lines(run: Run) -> None:
    targets = ("--target", "a", "--target", "b:0")
    code, out, err = run(*targets, "--follow", "--", "x", "one\ntwo", "oops\n")
    assert code == 0
    assert sorted(out.splitlines()) == ["a: one", "a: two", "b:0: one", "b:0: two"]
    assert {"a: oops", "b:0: oops"} <= set(err.splitlines())


def test_a_partly_refused_submission_shows_both_and_exits_3(run: Run) -> None:
    targets = ("--target", "node1", "--target", "nosuch")
    for wait in ((), ("--wait",)):
        code, out, err = run(*targets, *wait, "--", "x")
        assert code == 3
        assert "on node1" in out
        assert "no task on nosuch: no such node" in one_line(err)


def test_a_refused_submission_is_one_line_with_the_reasons(run: Run) -> None:
    code, out, err = run("--target", "nosuch", "--", "x")
    assert (code, out) == (1, "")
    assert "no task was created" in one_line(err)
    code, out, _ = run("--target", "nosuch", "--json", "--", "x")
    assert code == 1
    assert json.loads(out)["failed_targets"] == [{"target": "nosuch", "reason": "no such node"}]


def test_json_is_all_there_is_on_stdout(run: Run, cluster: ScriptedCluster) -> None:
    _, out, err = run("--json", "--target", "a", "--target", "nosuch", "--", "x")
    document = json.loads(out)
    assert document["task_ids"] == ["1001"]
    assert document["failed_targets"][0]["target"] == "nosuch"
    assert err == ""
    _, out, err = run("--json", "--wait", "--", "x", "hello")
    assert json.loads(out)["tasks"][0]["status"] == "completed"
    assert "running" in err or "completed" in err
    task_id = json.loads(out)["task_ids"][0]
    assert json.loads(run("--json", "--status", task_id)[1])["task_id"] == task_id
    assert json.loads(run("--json", "--logs", task_id)[1])["text"] == "hello"
    tasks = json.loads(run("--json", "--list-tasks", "--limit", "1")[1])
    assert [task["task_id"] for task in tasks["tasks"]] == [task_id]
    assert json.loads(run("--json", "--list-nodes")[1]) == {"nodes": []}
    assert json.loads(run("--json", "--health")[1]) == {"nodes": []}
    cluster.add(make_view("7", "running"))
    assert "7" in json.loads(run("--json", "--kill", "7")[1])["message"]


def test_queries_are_tables(run: Run, cluster: ScriptedCluster) -> None:
    cluster.add(make_view("7", "running", name="mine"))
    assert run("--list-tasks", "--name", "mine")[1].splitlines()[1].split()[:3] == [
        *("7", "running", "node1")
    ]
    assert run("--list-tasks", "--state", "failed")[1].count("\n") == 1
    assert "sleep 60" in run("--status", "7")[1]
    assert run("--list-nodes")[1].startswith("node")
    assert run("--health")[1].startswith("node")
    assert run("--kill", "7")[1] == "task 7 will end\n"


@pytest.mark.parametrize(
    "arguments", [("--status", "9"), ("--logs", "9"), ("--kill", "9"), ("--health", "nosuch")]
)
def test_what_is_not_there_is_one_line(run: Run, arguments: tuple[str, ...]) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (1, "")
    assert arguments[1] in one_line(err)


def test_a_whole_batch_is_killed_and_each_task_told(run: Run, cluster: ScriptedCluster) -> None:
    for task_id, status in (("7", "running"), ("8", "pending"), ("9", "completed")):
        cluster.add(make_view(task_id, status))
    code, out, _ = run("--kill-batch", "1000")
    assert code == 0
    assert out.splitlines() == ["2 tasks will end", "task 7 will end", "task 8 will end"]
    assert cluster.killed == ["7", "8"]
    assert json.loads(run("--kill-batch", "1000", "--json")[1])["task_ids"] == ["7", "8"]


def test_an_ended_task_runs_again(run: Run, cluster: ScriptedCluster) -> None:
    cluster.add(make_view("7", "failed", exit_code=1))
    code, out, _ = run("--rerun", "7", "--env", "A=1", "--no-queue")
    assert (code, out) == (0, "task 1001 on node1\n")
    ((_, request),) = cluster.reruns
    assert (request.env_vars, request.queue) == ({"A": "1"}, False)
    assert json.loads(run("--rerun", "7", "--json")[1])["task_ids"] == ["1003"]
    assert "has not ended" in one_line(run("--rerun", "1001")[2])


def test_nodes_are_drained_resumed_and_forgotten(run: Run, cluster: ScriptedCluster) -> None:
    cluster.put_node(make_node("n1"))
    assert run("--drain", "n1")[:2] == (0, "n1 gets no new tasks; 3 of its cores are in use\n")
    assert "online, draining" in run("--list-nodes")[1]
    assert json.loads(run("--resume", "n1", "--json")[1])["draining"] is False
    assert "n1 is online" in one_line(run("--forget", "n1")[2])
    cluster.put_node(make_node("n1", status=NodeStatus.OFFLINE))
    assert run("--forget", "n1")[1] == "node n1 is forgotten\n"
    assert "n1" in one_line(run("--drain", "n1")[2])


def test_a_list_that_goes_on_says_how(run: Run, cluster: ScriptedCluster) -> None:
    for number in range(3):
        cluster.add(make_view(str(7 + number), "running", name="a b", owner="alice"))
    filters = ("--list-tasks", "--name", "a b", "--mine", "--limit", "2")
    code, out, err = run(*filters)
    assert (code, out.count("\n")) == (0, 3)
    assert one_line(err).endswith("there are more; go on with --before 8\n")
    _, out, err = run(*filters, "--before", "8")
    assert (out.splitlines()[1].split()[0], err) == ("7", "")


def test_a_host_that_goes_away_is_awaited_and_said_once(
    run: Run, cluster: ScriptedCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.finishing = False

    async def fail_and_finish() -> None:
        cluster.down = HostUnreachable("restarting")
        cluster.break_off()
        await asyncio.sleep(0.3)
        cluster.down = None
        for task_id in tuple(cluster.views):
            cluster.finish(task_id)

    def follow(tasks: Sequence[Task], **options: Any) -> Follow:
        tasks[0].portal.schedule(fail_and_finish())
        return Follow(tasks, **options)

    monkeypatch.setattr(submitting, "follow", follow)
    code, out, err = run("--wait", "--", "x")
    assert code == 0
    assert "does not answer; waiting for it" in one_line(err)
    assert out.splitlines()[-1] == "task 1001: completed"


def test_logs_are_as_written(run: Run, cluster: ScriptedCluster) -> None:
    cluster.add(make_view("7", "running"))
    cluster.write("7", b"one\r\ntwo")
    cluster.write("7", b"err\n", "stderr")
    assert run("--logs", "7")[1] == "one\r\ntwo"
    assert run("--logs", "7", "--tail", "1")[1] == "two"
    assert run("--logs", "7", "--stderr")[1] == "err\n"
    cluster.finish("7")
    assert run("--logs", "7", "--follow")[1] == "one\r\ntwo"


def test_no_host_is_one_line(run: Run, cluster: ScriptedCluster) -> None:
    cluster.down = HostUnreachable("no host answers at http://127.0.0.1:9: start one")
    for arguments in (("--list-nodes",), ("--wait", "--", "x")):
        code, out, err = run(*arguments)
        assert (code, out) == (1, "")
        assert "127.0.0.1:9" in one_line(err)


def test_an_interrupt_says_how_to_come_back(
    run: Run, cluster: ScriptedCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.finishing = False

    def interrupted(_: Follow) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Follow, "__next__", interrupted)
    code, out, err = run("--target", "node1", "--wait", "--", "sleep", "60")
    assert code == 130
    assert out == "task 1001 on node1\n"
    assert "--status 1001" in err
    assert "Traceback" not in err
    assert not cluster.killed


def test_a_terminal_without_our_characters_is_no_error() -> None:
    code = "from hakuriver.cli.client import main\nmain(['--help'])"
    environ = {**os.environ, "PYTHONIOENCODING": "ascii"}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environ, check=True)
    assert b"COMMAND ARGS" in run.stdout
    assert not run.stderr


def test_no_reason_can_write_on_the_terminal(run: Run, cluster: ScriptedCluster) -> None:
    cluster.finish = lambda task_id, _=0: cluster.change(  # type: ignore[method-assign, assignment]
        task_id, "failed", reason="\x1b[2Jgone\nline"
    )
    assert run("--wait", "--", "x")[1].endswith("failed (\\x1b[2Jgone\\nline)\n")


def test_a_usage_error_needs_no_http() -> None:
    code = (
        "import sys\nfrom hakuriver.cli.client import main\n"
        "try:\n    main(['--cores', 'x'])\nexcept SystemExit as leave:\n"
        "    print(leave.code, 'httpx' in sys.modules)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "2 False\n"


@pytest.mark.parametrize(
    "line",
    [
        "--list-tasks --target node9",
        "--list-nodes --name x",
        "--status 1 --cores 4",
        "--kill 1 --env A=1",
        "--limit 5 -- true",
    ],
)
def test_an_option_that_would_do_nothing_is_refused(
    line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(line.split())
    assert ended.value.code == 2
    assert " goes with " in capsys.readouterr().err
