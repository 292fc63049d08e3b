from __future__ import annotations

from contextlib import aclosing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hakuriver.client.logs import LineSplitter, LogCursor, follow_bytes, read_text, split_lines
from hakuriver.errors import HostUnreachable, NodeOffline, NotFound
from hakuriver.model.tasks import TaskState
from hakuriver.model.views import LogEndView, LogLine
from unit.client.fakes import FakeCluster, line_of, make_view

MIXED = "aä€\N{PILE OF POO}\n".encode() + b"\xff\x00\r\x1b[31mred\xe2\x82"


@pytest.fixture
def cluster() -> FakeCluster:
    fake = FakeCluster()
    fake.views["1"] = make_view("1", "running")
    return fake


@pytest.mark.timeout(240)
@settings(max_examples=40)
@given(st.binary(max_size=60), st.data())
def test_each_byte_is_taken_once_whatever_is_sent_again(log: bytes, data: st.DataObject) -> None:
    cursor = LogCursor()
    taken = b""
    while (cursor.offset or 0) < len(log):
        reached = cursor.offset or 0
        start = data.draw(st.integers(0, reached))
        end = data.draw(st.integers(start, len(log)))
        taken += cursor.take(line_of(start, log[start:end]))
    assert taken == log
    assert cursor.take(LogLine(end=LogEndView(TaskState.COMPLETED, len(log)))) == b""
    assert cursor.end is not None


def test_a_log_that_was_cut_starts_again() -> None:
    cursor = LogCursor()
    assert cursor.take(line_of(0, b"before")) == b"before"
    assert cursor.take(LogLine(reset=True)) == b""
    assert cursor.take(line_of(0, b"new")) == b"new"
    assert cursor.offset == 3


def test_a_sign_of_life_is_no_content() -> None:
    cursor = LogCursor(None)
    assert cursor.take(LogLine()) == b""
    assert cursor.offset is None


@given(st.lists(st.text("ab\n\r", max_size=5)))
def test_lines_do_not_depend_on_where_text_is_cut(chunks: list[str]) -> None:
    splitter = LineSplitter()
    lines = [line for chunk in chunks for line in splitter.feed(chunk)] + list(splitter.flush())
    whole = "".join(chunks).split("\n")
    assert lines == (whole if whole[-1] else whole[:-1])


@pytest.mark.asyncio
async def test_a_follow_goes_on_where_it_broke(cluster: FakeCluster) -> None:
    cluster.write("1", b"one\n")
    seen = b""
    async with aclosing(follow_bytes(cluster, "1", "stdout")) as chunks:
        seen += await anext(chunks)
        cluster.break_off()
        cluster.write("1", b"two\n")
        seen += await anext(chunks)
        cluster.break_off()
        cluster.write("1", b"three")
        cluster.end_log("1")
        async for chunk in chunks:
            seen += chunk
    assert seen == b"one\ntwo\nthree"
    assert cluster.offsets == [0, 4, 8]


@pytest.mark.asyncio
async def test_a_tail_that_breaks_does_not_start_from_the_tail_again(cluster: FakeCluster) -> None:
    cluster.write("1", b"one\ntwo\nthree\n")
    async with aclosing(follow_bytes(cluster, "1", "stdout", tail=1)) as chunks:
        assert await anext(chunks) == b"three\n"
        cluster.break_off()
        cluster.write("1", b"four\nfive\n")
        cluster.end_log("1")
        assert b"".join([chunk async for chunk in chunks]) == b"four\nfive\n"


@pytest.mark.asyncio
async def test_patience_has_an_end(cluster: FakeCluster) -> None:
    cluster.down = HostUnreachable("nobody there")
    with pytest.raises(HostUnreachable, match="nobody there"):
        await anext(follow_bytes(cluster, "1", "stdout", patience=0.05))


@pytest.mark.asyncio
async def test_an_unknown_task_is_told_at_once(cluster: FakeCluster) -> None:
    with pytest.raises(NotFound):
        await anext(follow_bytes(cluster, "2", "stdout"))


@pytest.mark.asyncio
async def test_the_log_of_an_ended_task_does_not_wait_for_its_node(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: object, **__: object) -> None:
        raise NodeOffline("node1 is offline")

    cluster.views["1"] = make_view("1", "lost")
    monkeypatch.setattr(cluster, "follow_log", offline)
    with pytest.raises(NodeOffline):
        await anext(follow_bytes(cluster, "1", "stdout"))


@pytest.mark.asyncio
@pytest.mark.parametrize("follow", [True, False])
async def test_text_is_never_cut_within_a_character(cluster: FakeCluster, *, follow: bool) -> None:
    cluster.write("1", MIXED)
    cluster.end_log("1")
    text = "".join([piece async for piece in read_text(cluster, "1", "stdout", follow=follow)])
    assert text == MIXED.decode("utf-8", "replace")
    exact = read_text(cluster, "1", "stdout", follow=follow, errors="surrogateescape")
    assert "".join([piece async for piece in exact]).encode("utf-8", "surrogateescape") == MIXED


@pytest.mark.asyncio
async def test_lines_come_without_their_newline(cluster: FakeCluster) -> None:
    cluster.write("1", b"one\n\ntwo\rthree\nfour")
    lines = split_lines(read_text(cluster, "1", "stdout"))
    assert [line async for line in lines] == ["one", "", "two\rthree", "four"]
