from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest

from support.processes import resident_bytes
from support.streams import open_stream, wish

if TYPE_CHECKING:
    from support.harness import Cluster

MIB = 1 << 20
#: Writes on both streams, slowly enough to be followed.
BOTH = """
import os, sys, time
for number in range(int(sys.argv[1])):
    os.write(1, f"out {number} {time.time()}\\n".encode())
    os.write(2, f"err {number}\\n".encode())
    time.sleep(0.02)
"""
#: Bodies that are refused, and the field that is to blame.
BAD: dict[str, Any] = {
    "negative revision": {"after": -1},
    "revision as text": {"after": "1"},
    "revision as a fraction": {"after": 1.5},
    "logs that are no list": {"logs": {}},
    "a log that is no object": {"logs": ["1"]},
    "a log without an id": {"logs": [{"stream": "stdout"}]},
    "an id that is a number": {"logs": [{"id": 1}]},
    "another stream": {"logs": [{"id": "1", "stream": "stdin"}]},
    "negative offset": {"logs": [{"id": "1", "offset": -1}]},
    "huge offset": {"logs": [{"id": "1", "offset": 1 << 63}]},
    "unknown field": {"before": 1},
    "unknown field of a log": {"logs": [{"id": "1", "tail": 1}]},
    "too many logs": {"logs": [{"id": "1"}] * 201},
    "a list": [],
    "no JSON": b"{",
    "no text": b"\xff\xfe",
}


def test_the_first_line_tells_the_revision(cluster: Cluster) -> None:
    with open_stream(cluster) as feed:
        assert feed.read_line().keys() == {"event"}
        assert feed.events[0].keys() == {"rev"}
        task_id = cluster.submit("true")
        feed.read_until(lambda feed: "completed" in feed.states_of(task_id))
    order = ["pending", "assigning", "running", "completed"]
    states = feed.states_of(task_id)
    assert states == sorted(states, key=order.index)
    revisions = [event["rev"] for event in feed.events]
    assert revisions == sorted(revisions)


def test_one_stream_carries_events_and_the_logs_of_several_tasks(cluster: Cluster) -> None:
    ids = [cluster.script(BOTH, arguments=["20"], target=name) for name in ("node1", "node2")]
    wishes = [wish(task_id, stream) for task_id in ids for stream in ("stdout", "stderr")]
    with open_stream(cluster, after=0, logs=wishes) as feed:
        feed.read_until(lambda feed: len(feed.ends) == 4)
        feed.read_until(
            lambda feed: all(feed.states_of(task_id)[-1:] == ["completed"] for task_id in ids)
        )
    for task_id in ids:
        for stream in ("stdout", "stderr"):
            whole = cluster.output(task_id, stream)
            assert len(whole.splitlines()) == 20
            assert feed.data[task_id, stream] == whole
            assert feed.ends[task_id, stream] == {"status": "completed", "size": len(whole)}
    assert feed.errors == {}


def test_the_lines_of_a_stream_arrive_as_they_are_written(cluster: Cluster) -> None:
    task_id = cluster.script(BOTH, arguments=["100000"])
    with open_stream(cluster, logs=[wish(task_id), wish(task_id, "stderr")]) as feed:
        feed.read_until(lambda feed: feed.data.get((task_id, "stdout"), b"").count(b"\n") > 20)
        feed.read_until(
            lambda feed: (
                feed.data[task_id, "stdout"].count(b"\n") > 40
                and feed.data.get((task_id, "stderr"))
            )
        )
        assert cluster.status(task_id)["status"] == "running"


def test_a_stream_goes_on_after_the_end_of_its_logs(cluster: Cluster) -> None:
    done = cluster.run("echo", "old")["task_id"]
    with open_stream(cluster, logs=[wish(done)]) as feed:
        feed.read_until(lambda feed: feed.ends)
        assert feed.data[done, "stdout"] == b"old\n"
        later = cluster.submit("true")
        feed.read_until(lambda feed: "completed" in feed.states_of(later))


def test_a_log_goes_on_from_the_offset_that_was_asked_for(cluster: Cluster) -> None:
    task_id = cluster.run("seq", "1000")["task_id"]
    whole = cluster.output(task_id)
    for offset in (0, 100, len(whole) - 1, len(whole)):
        with open_stream(cluster, logs=[wish(task_id, offset=offset)]) as feed:
            feed.read_until(lambda feed: feed.ends)
        assert feed.data.get((task_id, "stdout"), b"") == whole[offset:]
        assert feed.starts.get((task_id, "stdout"), offset) == offset
        assert feed.ends[task_id, "stdout"] == {"status": "completed", "size": len(whole)}


def test_a_broken_stream_is_taken_up_where_it_broke(cluster: Cluster) -> None:
    task_id = cluster.script(BOTH, arguments=["60"])
    key = (task_id, "stdout")
    with open_stream(cluster, logs=[wish(task_id)]) as first:
        first.read_until(lambda feed: feed.data.get(key, b"").count(b"\n") >= 5)
    revision = first.events[-1]["rev"]
    seen = first.data[key]
    again = wish(task_id, offset=len(seen))
    with open_stream(cluster, after=revision, logs=[again]) as second:
        second.read_until(lambda feed: feed.ends and "completed" in feed.states_of(task_id))
    assert seen + second.data[key] == cluster.output(task_id)
    changes = [event for event in second.events if "task" in event or "node" in event]
    assert all(event["rev"] > revision for event in changes)


def test_events_are_replayed_from_a_revision(cluster: Cluster) -> None:
    with open_stream(cluster) as feed:
        revision = feed.read_line()["event"]["rev"]
    task_id = cluster.run("true")["task_id"]
    with open_stream(cluster, after=revision) as feed:
        assert feed.read_line() == {"event": {"rev": revision}}
        feed.read_until(lambda feed: "completed" in feed.states_of(task_id))
    with open_stream(cluster) as feed:
        assert feed.read_line()["event"]["rev"] > revision
        later = cluster.submit("true")
        feed.read_until(lambda feed: "completed" in feed.states_of(later))
        assert feed.states_of(task_id) == []


def test_a_stream_that_has_nothing_to_tell_gives_signs_of_life(cluster: Cluster) -> None:
    silent = cluster.submit("sleep", "60")
    cluster.wait(silent, "running")
    with open_stream(cluster, logs=[wish(silent)]) as feed:
        feed.read_line()
        opened = feed.arrivals[0][0]
        feed.read_until(lambda feed: any(event.keys() == {"rev"} for event in feed.events[1:]))
    # Whoever stands between may give up after half a minute.
    assert 5 < feed.arrivals[-1][0] - opened < 30
    assert feed.events[-1]["rev"] >= feed.events[0]["rev"]


def test_the_log_of_a_task_that_waits_begins_when_it_starts(cluster: Cluster) -> None:
    cluster.submit("sleep", "0.5")
    waiting = cluster.submit("echo", "at last")
    with open_stream(cluster, logs=[wish(waiting)]) as feed:
        feed.read_until(lambda feed: feed.ends)
    assert feed.data[waiting, "stdout"] == b"at last\n"


def test_bytes_that_are_no_text_come_whole(cluster: Cluster) -> None:
    pieces = (b"caf\xc3", b"\xa9 \xf0\x9f", b"\x99\x82 10%\r", b"\xff\xfe\x00\n", b"\xe2\x82")
    script = f"import os, time\nfor p in {pieces!r}:\n    os.write(1, p)\n    time.sleep(0.05)\n"
    task_id = cluster.script(script)
    with open_stream(cluster, logs=[wish(task_id)]) as feed:
        feed.read_until(lambda feed: feed.ends)
    assert feed.data[task_id, "stdout"] == b"".join(pieces)


@pytest.mark.parametrize("unknown", ["12345", "abc", "0", "-1", "9" * 30, ""])
def test_an_unknown_task_is_told_and_holds_up_nothing_else(cluster: Cluster, unknown: str) -> None:
    task_id = cluster.run("echo", "known")["task_id"]
    with open_stream(cluster, logs=[wish(unknown), wish(task_id)]) as feed:
        feed.read_until(lambda feed: feed.ends and feed.errors)
        assert feed.data == {(task_id, "stdout"): b"known\n"}
        assert feed.errors.keys() == {(unknown, "stdout")}
        assert feed.errors[unknown, "stdout"]
        later = cluster.submit("true")
        feed.read_until(lambda feed: "completed" in feed.states_of(later))


@pytest.mark.parametrize("kind", BAD)
def test_a_body_that_makes_no_sense_is_refused_by_name(cluster: Cluster, kind: str) -> None:
    reply = cluster.http("POST", "/api/stream", body=BAD[kind])
    assert reply.status == 422, reply.body
    detail = reply.json()["detail"]
    assert detail
    assert all(error["field"] and error["reason"] for error in detail)


def test_as_many_logs_as_are_allowed_are_granted(cluster: Cluster) -> None:
    task_id = cluster.run("echo", "once")["task_id"]
    unknown = [wish(str(number)) for number in range(1, 200)]
    with open_stream(cluster, logs=[*unknown, wish(task_id)]) as feed:
        feed.read_until(lambda feed: feed.ends and len(feed.errors) == 199)
    assert feed.data == {(task_id, "stdout"): b"once\n"}


def test_a_stream_is_also_found_without_the_prefix(cluster: Cluster) -> None:
    assert cluster.http("POST", "/stream", body={"after": -1}).status == 422
    assert cluster.http("POST", "/api/stream", body={}, token="wrong").status == 401
    assert cluster.http("POST", "/api/stream", body={}, token=None).status == 401
    assert cluster.http("GET", "/api/stream").status == 405


def test_a_revision_of_the_future_is_answered_with_a_fresh_start(cluster: Cluster) -> None:
    with open_stream(cluster, after=1 << 60) as feed:
        feed.read_until(lambda feed: any(event.get("reset") for event in feed.events))
        assert feed.events[-1]["rev"] < 1 << 60
        task_id = cluster.submit("true")
        feed.read_until(lambda feed: "completed" in feed.states_of(task_id))


def test_two_pages_with_the_same_log_get_all_of_it(cluster: Cluster) -> None:
    task_id = cluster.script(BOTH, arguments=["30"])
    with (
        open_stream(cluster, logs=[wish(task_id)]) as one,
        open_stream(cluster, logs=[wish(task_id), wish(task_id, "stderr")]) as two,
    ):
        one.read_until(lambda feed: feed.ends)
        two.read_until(lambda feed: len(feed.ends) == 2)
    assert one.data[task_id, "stdout"] == two.data[task_id, "stdout"] == cluster.output(task_id)


def test_a_big_log_does_not_keep_the_others_or_the_events_waiting(cluster: Cluster) -> None:
    big = cluster.run("sh", "-c", f"yes | head -c {16 * MIB}")["task_id"]
    small = cluster.run("echo", "small")["task_id"]
    wishes = [wish(big), wish(small)]
    with open_stream(cluster, logs=wishes) as feed:
        feed.read_until(lambda feed: (small, "stdout") in feed.ends)
        # Nobody reads on meanwhile: that takes no longer for a task that a busy machine delays.
        later = cluster.run("true", target="node2")["task_id"]
        feed.read_until(lambda feed: "completed" in feed.states_of(later))
        carried = len(feed.data.get((big, "stdout"), b""))
        assert carried < 16 * MIB, "the small log and the events came after the whole big one"


def test_a_page_that_does_not_read_costs_little_and_holds_nobody_up(cluster: Cluster) -> None:
    cluster.run("true")
    before = resident_bytes(cluster.host.pid)
    task_id = cluster.submit("head", "-c", "100000000", "/dev/zero")
    with open_stream(cluster, after=0, logs=[wish(task_id)]):
        cluster.wait(task_id, "completed")
        assert cluster.run(sys.executable, "-c", "pass")["status"] == "completed"
        assert resident_bytes(cluster.host.pid) - before < 50 * MIB
