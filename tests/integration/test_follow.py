from __future__ import annotations

import base64
import re
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from support.processes import resident_bytes, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterable

    from support.harness import Cluster

TICKER = """
import os, sys, time
for number in range(int(sys.argv[1])):
    os.write(1, f"{number} {time.time()}\\n".encode())
    time.sleep(float(sys.argv[2]))
"""


#: In seconds: what an event takes. A look now and then would take longer.
QUICK = 0.1
#: Less than the ten seconds after which a silent stream gives a sign of life in any case.
PROMPT = 8


def _path(task_id: str, stream: str = "stdout", start: str = "offset=0") -> str:
    return f"/api/task/{task_id}/{stream}?follow=1&{start}"


def _chunk(line: dict[str, Any]) -> bytes:
    if "b64" in line:
        assert "data" not in line
        return base64.b64decode(line["b64"], validate=True)
    return str(line["data"]).encode()


def _gather(lines: Iterable[tuple[float, Any]], start: int = 0) -> tuple[bytes, dict[str, Any]]:
    """Return the bytes that a follow carried, in one piece, and how it ended."""
    data = b""
    end: dict[str, Any] = {}
    for _, line in lines:
        assert not end, "nothing comes after the end"
        if "offset" in line:
            assert line["offset"] == start + len(data), "a gap, or bytes twice"
            data += _chunk(line)
        elif "end" in line:
            end = line["end"]
        else:
            assert line == {}
    return data, end


def test_a_followed_line_arrives_within_a_tenth_of_a_second(cluster: Cluster) -> None:
    # One calm round proves it; a busy machine has others.
    medians = [_median_delay(cluster)]
    while medians[-1] >= QUICK and len(medians) < 10:
        medians.append(_median_delay(cluster))
    assert medians[-1] < QUICK, medians


def _median_delay(cluster: Cluster) -> float:
    """Return in how many seconds the lines of a task come, as their median."""
    task_id = cluster.script(TICKER, arguments=["40", "0.03"])
    delays: list[float] = []
    seen = b""
    with cluster.stream(_path(task_id)) as lines:
        for arrival, line in lines:
            if "end" in line:
                break
            if "offset" not in line:
                continue
            assert line["offset"] == len(seen)
            chunk = _chunk(line)
            seen += chunk
            delays += [arrival - float(row.split()[1]) for row in chunk.decode().splitlines()]
    assert len(delays) == 40
    assert seen == cluster.output(task_id)
    return statistics.median(delays)


def test_a_follow_ends_with_the_task_and_tells_how(cluster: Cluster) -> None:
    for script, status in (("echo a; echo b", "completed"), ("echo a; exit 3", "failed")):
        task_id = cluster.submit("sh", "-c", script)
        with cluster.stream(_path(task_id)) as lines:
            data, end = _gather(lines)
        assert data == cluster.output(task_id)
        assert end == {"status": status, "size": len(data)}


def test_the_end_of_a_follow_comes_soon_after_the_end_of_the_task(cluster: Cluster) -> None:
    delays: list[float] = []
    while not delays or (delays[-1] >= 1 and len(delays) < 5):
        task_id = cluster.submit("sh", "-c", "sleep 0.3; date +%s.%N")
        with cluster.stream(_path(task_id)) as lines:
            rows = list(lines)
        delays.append(rows[-1][0] - float(_gather(rows)[0]))
    assert delays[-1] < 1, delays


def test_a_follow_of_a_task_that_waits_goes_on_when_it_starts(cluster: Cluster) -> None:
    first = cluster.submit("sh", "-c", "sleep 0.5")
    second = cluster.submit("echo", "at last")
    with cluster.stream(_path(second)) as lines:
        assert _gather(lines) == (b"at last\n", {"status": "completed", "size": 8})
    assert cluster.status(first)["status"] == "completed"


def test_a_follow_of_a_task_that_waits_answers_at_once(cluster: Cluster) -> None:
    cluster.wait(cluster.submit("sleep", "60"), "running")
    waiting = cluster.submit("echo", "never")
    started = time.monotonic()
    with cluster.raw(_path(waiting)):
        assert time.monotonic() - started < PROMPT


def test_a_follow_of_a_task_killed_in_the_queue_ends(cluster: Cluster) -> None:
    cluster.wait(cluster.submit("sleep", "60"), "running")
    waiting = cluster.submit("echo", "never")
    with ThreadPoolExecutor(1) as pool, cluster.stream(_path(waiting)) as lines:
        started = time.monotonic()
        gathered = pool.submit(_gather, lines)
        assert cluster.http("POST", f"/api/kill/{waiting}").status == 202
        assert gathered.result(60) == (b"", {"status": "killed", "size": 0})
        assert time.monotonic() - started < PROMPT


def test_a_follow_of_an_ended_task_gives_the_whole_and_ends(cluster: Cluster) -> None:
    task_id = cluster.run("seq", "1000")["task_id"]
    whole = cluster.output(task_id)
    for start, expected in ((0, whole), (100, whole[100:]), (len(whole), b"")):
        with cluster.stream(_path(task_id, start=f"offset={start}")) as lines:
            data, end = _gather(lines, start)
        assert data == expected
        assert end == {"status": "completed", "size": len(whole)}


def test_a_follow_can_begin_with_the_last_lines(cluster: Cluster) -> None:
    task_id = cluster.run("seq", "100")["task_id"]
    size = len(cluster.output(task_id))
    with cluster.stream(_path(task_id, start="tail=2")) as lines:
        data, end = _gather(lines, size - len(b"99\n100\n"))
    assert data == b"99\n100\n"
    assert end["size"] == size


def test_followed_bytes_are_the_ones_written_however_they_are_cut(cluster: Cluster) -> None:
    pieces = (
        *(b"caf", b"\xc3", b"\xa9 \xf0\x9f", b"\x99\x82", b" 10%\r", b"20%\r"),
        *(b"\xff\xfe", b"\x1b[31mred", b"\n", b"\xe2\x82"),
    )
    script = (
        f"import os, time\nfor piece in {pieces!r}:\n    os.write(1, piece)\n    time.sleep(0.05)\n"
    )
    task_id = cluster.script(script)
    with cluster.stream(_path(task_id)) as lines:
        data, _ = _gather(lines)
    assert data == b"".join(pieces) == cluster.output(task_id)


def test_two_followers_of_both_streams_get_everything(cluster: Cluster) -> None:
    script = "for i in $(seq 200); do echo out $i; echo err $i >&2; done"
    task_id = cluster.submit("sh", "-c", script)
    with (
        cluster.stream(_path(task_id)) as one,
        cluster.stream(_path(task_id)) as two,
        cluster.stream(_path(task_id, "stderr")) as three,
    ):
        out, again, err = _gather(one)[0], _gather(two)[0], _gather(three)[0]
    assert out == again == b"".join(b"out %d\n" % number for number in range(1, 201))
    assert err == out.replace(b"out", b"err")


def test_a_burst_of_lines_comes_whole(cluster: Cluster) -> None:
    task_id = cluster.submit("seq", "50000")
    with cluster.stream(_path(task_id)) as lines:
        data, _ = _gather(lines)
    assert data == b"".join(b"%d\n" % number for number in range(1, 50001))


def test_a_reader_that_does_not_read_holds_nobody_up(cluster: Cluster) -> None:
    cluster.run("true")
    pids = [cluster.host.pid, cluster.runners["node1"].pid]
    before = [resident_bytes(pid) for pid in pids]
    task_id = cluster.submit("sh", "-c", "head -c 100000000 /dev/zero", cores=0)
    with cluster.raw(_path(task_id)):
        cluster.wait(task_id, "completed")
        assert cluster.run("true")["status"] == "completed"
        growth = [resident_bytes(pid) - was for pid, was in zip(pids, before, strict=True)]
        assert max(growth) < 50 << 20, growth


def test_a_follower_that_leaves_is_forgotten(cluster: Cluster) -> None:
    task_id = cluster.script(TICKER, arguments=["100000", "0.01"])
    for _ in range(3):
        with cluster.stream(_path(task_id)) as lines:
            assert any("data" in line for _, line in lines)
    assert cluster.status(task_id)["status"] == "running"


def test_the_client_follows_both_streams_byte_for_byte(cluster: Cluster) -> None:
    script = "import os; os.write(1, b'out \\xff\\r'); os.write(2, b'err\\n')"
    command = ("--target", "node1", "--follow", "--", sys.executable, "-c", script)
    done = cluster.run_client(*command)
    assert done.returncode == 0
    assert b"out \xff\r" in done.stdout.encode("utf-8", "surrogateescape")
    assert "err\n" in done.stderr
    assert "err\n" not in done.stdout


def test_the_client_exits_with_the_code_of_the_followed_task(cluster: Cluster) -> None:
    command = ("--target", "node1", "--wait", "--follow", "--", "sh", "-c", "echo hello; exit 9")
    done = cluster.run_client(*command, check=9)
    assert "hello\n" in done.stdout


def test_the_client_prefixes_the_lines_of_several_targets(cluster: Cluster) -> None:
    script = "echo one on $HAKURIVER_NODE; printf rest"
    both = ("--target", "node1", "--target", "node2", "--wait", "--follow", "--")
    done = cluster.run_client(*both, "sh", "-c", script, check=0)
    for node in ("node1", "node2"):
        pattern = rf"^\W*{node}\W+one on {node}$"
        assert re.search(pattern, done.stdout, re.MULTILINE), done.stdout
        assert re.search(rf"^\W*{node}\W+rest$", done.stdout, re.MULTILINE), done.stdout


def test_the_client_follows_a_log_from_its_start_to_its_end(cluster: Cluster) -> None:
    task_id = cluster.script(TICKER, arguments=["20", "0.03"])
    cluster.wait(task_id, "running", "completed")
    done = cluster.run_client("--logs", task_id, "--follow", check=0)
    assert done.stdout == cluster.text(task_id)
    assert len(done.stdout.splitlines()) == 20


def test_a_followed_line_shows_in_the_client_at_once(cluster: Cluster) -> None:
    task_id = cluster.script(TICKER, arguments=["100000", "0.05"])
    client = cluster.start_client("--logs", task_id, "--follow")
    assert client.stdout is not None
    delays: list[float] = []
    for line in client.stdout:
        delays.append(time.time() - float(line.split()[1]))
        # What was written before the client had started came late, of course.
        calm = len(delays) > 40 and statistics.median(delays[-15:]) < QUICK
        if calm or len(delays) > 400:
            break
    assert calm, delays
    cluster.http("POST", f"/api/kill/{task_id}")
    assert client.wait(60) is not None


def test_a_closed_pipe_ends_the_client_quietly(cluster: Cluster) -> None:
    task_id = cluster.run("seq", "100000")["task_id"]
    client = cluster.start_client("--logs", task_id)
    assert isinstance(client, subprocess.Popen)
    assert client.stdout is not None
    assert client.stderr is not None
    assert client.stdout.readline() == b"1\n"
    client.stdout.close()
    wait_until(lambda: client.poll() is not None)
    assert client.stderr.read() == b""
