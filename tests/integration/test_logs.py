from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.processes import read_bytes, resident_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.harness import Cluster

MIB = 1 << 20
#: What a program may write: no newline at the end, progress bars, broken UTF-8, colours, NUL.
ODD = {
    "no newline": b"the end",
    "progress": b"10%\r20%\r100%\rdone\n",
    "broken UTF-8": b"\xff\xfe ok \xc3( \xe2\x82 and \xf0\x9f\n",
    "colours": b"\x1b[31mred\x1b[0m \x1b[2K\n",
    "controls": bytes(range(32)) + b"\x7f",
    "CRLF": b"one\r\ntwo\r\n",
    "wide": "漢字 🙂 naïve\n".encode() * 1000,
    "nothing": b"",
}


def _writer(data: bytes) -> str:
    return f"import os\nos.write(1, bytes.fromhex({data.hex()!r}))\n"


@pytest.mark.parametrize("kind", ODD)
def test_a_log_is_what_the_program_wrote(cluster: Cluster, kind: str) -> None:
    data = ODD[kind]
    task_id = cluster.script(_writer(data))
    cluster.wait(task_id, "completed")
    assert cluster.output(task_id) == data
    shown = cluster.run_client("--logs", task_id, check=0).stdout
    assert shown.encode("utf-8", "surrogateescape") == data


def test_stdout_and_stderr_are_apart(cluster: Cluster) -> None:
    task_id = cluster.run("sh", "-c", "echo out; echo err >&2")["task_id"]
    assert cluster.output(task_id) == b"out\n"
    assert cluster.output(task_id, "stderr") == b"err\n"
    assert cluster.run_client("--logs", task_id, check=0).stdout == "out\n"
    assert cluster.run_client("--logs", task_id, "--stderr", check=0).stdout == "err\n"


def test_the_log_of_a_task_that_has_not_started_is_empty(cluster: Cluster) -> None:
    cluster.wait(cluster.submit("sleep", "60"), "running")
    waiting = cluster.submit("echo", "hello")
    for query in ("", "?tail=5"):
        assert cluster.output(waiting, "stdout", query) == b""
        assert cluster.output(waiting, "stderr", query) == b""
    done = cluster.run_client("--logs", waiting, check=0)
    assert done.stdout == ""
    assert cluster.status(waiting)["status"] == "pending"


def test_the_log_of_a_task_that_never_ran_is_empty(cluster: Cluster) -> None:
    task = cluster.run("/no/such/program")
    assert cluster.output(task["task_id"]) == b""


def test_the_log_of_an_unknown_task_is_not_found(cluster: Cluster) -> None:
    for query in ("", "?tail=1", "?follow=1&offset=0"):
        assert cluster.http("GET", f"/api/task/12345/stdout{query}").status == 404


def _follow_two_lines(cluster: Cluster) -> str:
    task_id = cluster.submit("sh", "-c", "echo one; echo two; sleep 60", cores=0)
    with cluster.stream(f"/api/task/{task_id}/stdout?follow=1&offset=0") as lines:
        seen = ""
        for _, line in lines:
            seen += line.get("data", "")
            if seen == "one\ntwo\n":
                return task_id
    raise AssertionError(seen)


def test_the_log_of_a_running_task_can_be_read(cluster: Cluster) -> None:
    task_id = _follow_two_lines(cluster)
    cluster.wait(task_id, "running")
    assert cluster.output(task_id) == b"one\ntwo\n"
    assert cluster.output(task_id, "stdout", "?tail=1") == b"two\n"


def test_what_a_follower_has_seen_can_be_read(cluster: Cluster) -> None:
    seen = [cluster.output(_follow_two_lines(cluster)) for _ in range(10)]
    assert seen == [b"one\ntwo\n"] * 10


@pytest.mark.parametrize(
    ("tail", "expected"),
    [(1, b"4\n"), (2, b"3\n4\n"), (4, b"1\n2\n3\n4\n"), (99, b"1\n2\n3\n4\n"), (0, b"")],
)
def test_tail_counts_lines(cluster: Cluster, tail: int, expected: bytes) -> None:
    task_id = cluster.run("seq", "4")["task_id"]
    assert cluster.output(task_id, "stdout", f"?tail={tail}") == expected
    if tail:
        done = cluster.run_client("--logs", task_id, "--tail", str(tail), check=0)
        assert done.stdout.encode() == expected


@pytest.mark.parametrize(
    ("asked", "expected", "answer"),
    [
        ("bytes=0-3", b"0123", "bytes 0-3/10"),
        ("bytes=4-", b"456789", "bytes 4-9/10"),
        ("bytes=-3", b"789", "bytes 7-9/10"),
        ("bytes=8-99", b"89", "bytes 8-9/10"),
        ("bytes=-99", b"0123456789", "bytes 0-9/10"),
    ],
)
def test_a_range_of_bytes_can_be_asked_for(
    cluster: Cluster, asked: str, expected: bytes, answer: str
) -> None:
    task_id = cluster.run("printf", "0123456789")["task_id"]
    reply = cluster.http("GET", f"/api/task/{task_id}/stdout", headers={"Range": asked})
    assert (reply.status, reply.body) == (206, expected)
    assert reply.headers["Content-Range"] == answer


def test_a_range_behind_the_end_is_not_satisfiable(cluster: Cluster) -> None:
    task_id = cluster.run("printf", "0123456789")["task_id"]
    reply = cluster.http("GET", f"/api/task/{task_id}/stdout", headers={"Range": "bytes=10-"})
    assert reply.status == 416
    assert reply.headers["Content-Range"] == "bytes */10"


def test_readers_that_leave_in_the_middle_are_no_trouble(cluster: Cluster) -> None:
    task_id = cluster.run("head", "-c", str(32 * MIB), "/dev/zero")["task_id"]
    for _ in range(5):
        with cluster.raw(f"/api/task/{task_id}/stdout") as response:
            assert len(response.read(1000)) == 1000
    assert cluster.run("true")["status"] == "completed"


def test_a_log_that_is_a_link_is_not_read(fresh_cluster: Cluster) -> None:
    secret = fresh_cluster.root / "secret"
    secret.write_text("secret", "utf-8")
    task = fresh_cluster.run(
        "sh", "-c", f'f=$(readlink /proc/$$/fd/1); rm "$f"; ln -s "{secret}" "$f"'
    )
    reply = fresh_cluster.http("GET", f"/api/task/{task['task_id']}/stdout")
    assert b"secret" not in reply.body


@pytest.mark.parametrize("shared", [False, True], ids=["through the runner", "shared directory"])
def test_parts_of_a_log_of_a_gibibyte_come_at_once(
    make_cluster: Callable[..., Cluster], *, shared: bool
) -> None:
    cluster = make_cluster(shared=shared)
    cluster.start()
    script = (
        "import os\n"
        "os.write(1, b'first\\n')\n"
        "os.ftruncate(1, 1 << 30)\n"
        "os.write(1, b'\\nlast\\n')\n"
    )
    task_id = cluster.script(script)
    assert cluster.wait(task_id)["status"] == "completed"
    size = (1 << 30) + 6
    daemons = [cluster.host.pid, cluster.runners["node1"].pid]
    before = [resident_bytes(pid) for pid in daemons]
    been_read = [read_bytes(pid) for pid in daemons]
    assert cluster.output(task_id, "stdout", "?tail=1") == b"last\n"
    for asked, expected in (
        ("0-5", b"first\n"),
        ("-5", b"last\n"),
        ("536870912-536870919", b"\0" * 8),
    ):
        reply = cluster.http(
            "GET", f"/api/task/{task_id}/stdout", headers={"Range": f"bytes={asked}"}
        )
        assert (reply.status, reply.body) == (206, expected)
        assert reply.headers["Content-Range"].endswith(f"/{size}")
    follow = f"/api/task/{task_id}/stdout?follow=1&offset={size - 5}"
    with cluster.stream(follow) as lines:
        said = [line for _, line in lines if line]
    assert said[0] == {"offset": size - 5, "data": "last\n"}
    assert said[-1] == {"end": {"status": "completed", "size": size}}
    been_read = [read_bytes(pid) - was for pid, was in zip(daemons, been_read, strict=True)]
    assert max(been_read) < 50 * MIB, "parts are read, and not the whole"
    growth = [resident_bytes(pid, "VmHWM") - was for pid, was in zip(daemons, before, strict=True)]
    assert max(growth) < 50 * MIB, growth


@pytest.mark.parametrize("shared", [False, True], ids=["through the runner", "shared directory"])
def test_two_hundred_megabytes_of_output_pass_through_nobodys_memory(
    make_cluster: Callable[..., Cluster], *, shared: bool
) -> None:
    cluster = make_cluster(shared=shared)
    cluster.start()
    cluster.run("true")
    daemons = [cluster.host.pid, cluster.runners["node1"].pid]
    before = [resident_bytes(pid) for pid in daemons]
    size = 200 * MIB
    task = cluster.run("sh", "-c", f"head -c {size} /dev/zero; echo; echo end")
    assert task["status"] == "completed"
    task_id = task["task_id"]
    assert cluster.output(task_id, "stdout", "?tail=1") == b"end\n"
    read = 0
    with cluster.raw(f"/api/task/{task_id}/stdout") as response:
        while block := response.read(MIB):
            read += len(block)
    assert read == size + 5
    growth = [resident_bytes(pid, "VmHWM") - was for pid, was in zip(daemons, before, strict=True)]
    assert max(growth) < 50 * MIB, growth
