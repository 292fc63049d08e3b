from __future__ import annotations

import asyncio
import contextlib
import time
from functools import partial
from typing import TYPE_CHECKING

import pytest

from hakuriver.logfiles import TaskFiles
from hakuriver.model.messages import (
    LOG_WINDOW,
    MAX_CHUNK,
    LogChunk,
    LogClose,
    LogCredit,
    LogEnd,
    LogOpen,
    LogOpened,
    LogReset,
    Message,
)
from hakuriver.runner import tail as tail_module
from hakuriver.runner.tail import Tail
from hakuriver.runner.watches import Watches
from support.runner_tools import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


class Reader:
    """A tail and everything that it sent."""

    def __init__(self, root: Path) -> None:
        self.files = TaskFiles(root)
        self.files.make()
        self.sent: list[Message] = []
        self.live = {1}
        self.tail = Tail(self.files, is_live=self.live.__contains__, send=self.sent.append)
        self.log = self.files.log(1, "stdout")

    def open(
        self, *, offset: int = 0, tail: int | None = None, limit: int | None = None, follow: bool
    ) -> None:
        request = LogOpen(
            subscription=5,
            task_id=1,
            stream="stdout",
            offset=offset,
            tail=tail,
            limit=limit,
            follow=follow,
        )
        self.tail.open(request)

    def append(self, data: bytes) -> None:
        with self.log.open("ab") as file:
            file.write(data)

    def end(self) -> None:
        self.live.clear()
        self.tail.ended(1)

    def data(self) -> bytes:
        return b"".join(m.data for m in self.sent if isinstance(m, LogChunk))

    def has(self, data: bytes) -> bool:
        return self.data() == data

    async def over(self) -> LogEnd:
        await eventually(lambda: self.sent and isinstance(self.sent[-1], LogEnd))
        end = self.sent[-1]
        assert isinstance(end, LogEnd)
        return end

    def check_gapless(self) -> None:
        offset: int | None = None
        for message in self.sent:
            if isinstance(message, LogChunk):
                assert offset in (None, message.offset)
                assert len(message.data) <= MAX_CHUNK
                offset = message.offset + len(message.data)
            elif isinstance(message, LogReset):
                offset = 0


@contextlib.asynccontextmanager
async def reading(root: Path) -> AsyncIterator[Reader]:
    await asyncio.to_thread(Watches.prepare)
    reader = Reader(root)
    try:
        yield reader
    finally:
        await reader.tail.close_all()
        assert reader.tail.watches._notify is None, "inotify is open though nobody follows"
        reader.check_gapless()


@pytest.mark.asyncio
async def test_a_whole_log_is_sent_in_chunks(tmp_path: Path) -> None:
    content = bytes(range(256)) * 1000
    async with reading(tmp_path) as reader:
        reader.append(content)
        reader.open(follow=False)
        assert (await reader.over()).size == len(content)
        assert reader.sent[0] == LogOpened(subscription=5, size=len(content), offset=0)
        assert reader.data() == content


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("ask", "data", "offset"),
    [
        ({"offset": 4}, b"b\nc", 4),
        ({"offset": 2, "limit": 3}, b"a\nb", 2),
        ({"tail": 1}, b"c", 6),
        ({"tail": 2, "limit": 1}, b"b", 4),
        ({"tail": 0}, b"", 7),
        ({"offset": 99}, b"", 7),
    ],
)
async def test_a_part_of_a_log(
    tmp_path: Path, ask: dict[str, int], data: bytes, offset: int
) -> None:
    async with reading(tmp_path) as reader:
        reader.append(b"x\na\nb\nc")
        reader.open(**ask, follow=False)
        await reader.over()
        assert reader.sent[0] == LogOpened(subscription=5, size=7, offset=offset)
        assert reader.data() == data


@pytest.mark.asyncio
async def test_a_log_that_does_not_exist_is_empty(tmp_path: Path) -> None:
    async with reading(tmp_path) as reader:
        reader.live.clear()
        reader.open(follow=True, tail=3)
        assert (await reader.over()).size == 0
        assert reader.sent[0] == LogOpened(subscription=5, size=0, offset=0)


@pytest.mark.asyncio
async def test_a_follow_waits_for_the_file_and_then_for_each_line(tmp_path: Path) -> None:
    async with reading(tmp_path) as reader:
        reader.open(follow=True)
        await eventually(lambda: reader.sent)
        written = b""
        for line in (b"one\n", b"no newline", b"\r50%\r", b"\xff\xfe\x1b[31m", b"\n"):
            reader.append(line)
            written += line
            await eventually(partial(reader.has, written))
        reader.append(b"last")
        reader.end()
        assert (await reader.over()).size == len(written) + 4
        assert reader.data() == written + b"last"


@pytest.mark.asyncio
async def test_a_line_is_sent_soon_after_it_is_written(tmp_path: Path) -> None:
    delays: list[float] = []
    written = b""
    async with reading(tmp_path) as reader:
        reader.append(b"")
        reader.open(follow=True)
        await eventually(lambda: reader.sent)
        for number in range(20):
            begin = time.monotonic()
            reader.append(b"%d\n" % number)
            written += b"%d\n" % number
            await eventually(partial(reader.has, written))
            delays.append(time.monotonic() - begin)
        reader.end()
        await reader.over()
    assert sorted(delays)[10] < 0.05


@pytest.mark.asyncio
async def test_following_an_ended_task_ends_at_the_end(tmp_path: Path) -> None:
    async with reading(tmp_path) as reader:
        reader.append(b"all")
        reader.live.clear()
        reader.open(follow=True)
        await reader.over()
        assert reader.data() == b"all"


@pytest.mark.asyncio
async def test_no_more_is_sent_than_was_granted(tmp_path: Path) -> None:
    content = b"0123456789abcdef" * (LOG_WINDOW // 8)
    async with reading(tmp_path) as reader:
        reader.append(content)
        reader.open(follow=True)
        await eventually(lambda: len(reader.data()) >= LOG_WINDOW)
        reader.append(b"more")
        assert len(reader.data()) == LOG_WINDOW
        reader.tail.credit(LogCredit(subscription=5, size=10))
        await eventually(lambda: len(reader.data()) == LOG_WINDOW + 10)
        reader.tail.credit(LogCredit(subscription=5, size=len(content)))
        reader.end()
        await reader.over()
        assert reader.data() == content + b"more"


@pytest.mark.asyncio
async def test_a_file_that_shrank_begins_again(tmp_path: Path) -> None:
    async with reading(tmp_path) as reader:
        reader.append(b"a long first content")
        reader.open(follow=True)
        await eventually(reader.data)
        reader.log.write_bytes(b"short")
        await eventually(lambda: reader.data().endswith(b"short"))
        assert LogReset(subscription=5) in reader.sent
        reader.end()
        assert (await reader.over()).size == 5


@pytest.mark.asyncio
async def test_a_link_is_never_followed(tmp_path: Path) -> None:
    async with reading(tmp_path) as reader:
        reader.log.symlink_to("/etc/passwd")
        reader.open(follow=True)
        await eventually(lambda: reader.sent)
        (answer,) = reader.sent
        assert isinstance(answer, LogOpened)
        assert answer.error
        assert str(reader.log) in answer.error


@pytest.mark.asyncio
async def test_a_closed_subscription_sends_nothing_more(tmp_path: Path) -> None:
    async with reading(tmp_path) as reader:
        reader.append(b"x")
        reader.open(follow=True)
        await eventually(reader.data)
        reader.tail.close(LogClose(subscription=5))
        await eventually(lambda: not reader.tail._running)
        count = len(reader.sent)
        reader.append(b"y")
        reader.tail.credit(LogCredit(subscription=5, size=1))
        reader.end()
        assert len(reader.sent) == count


@pytest.mark.asyncio
async def test_without_inotify_a_log_is_followed_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Watches, "add", lambda *_, **__: False)
    monkeypatch.setattr(tail_module, "_UNWATCHED", 0.02)
    async with reading(tmp_path) as reader:
        reader.open(follow=True)
        reader.append(b"one")
        await eventually(lambda: reader.data() == b"one")
        reader.append(b"two")
        await eventually(lambda: reader.data() == b"onetwo")
        reader.end()
        await reader.over()


@pytest.mark.asyncio
async def test_two_followers_of_one_log(tmp_path: Path) -> None:
    async with reading(tmp_path) as reader:
        reader.append(b"a")
        reader.open(follow=True)
        await eventually(lambda: reader.data() == b"a")
        other = LogOpen(subscription=6, task_id=1, stream="stdout", offset=1, follow=True)
        reader.tail.open(other)
        await eventually(lambda: LogOpened(subscription=6, size=1, offset=1) in reader.sent)
        reader.tail.close(LogClose(subscription=6))
        await eventually(lambda: 6 not in reader.tail._running)
        reader.append(b"b")
        await eventually(lambda: reader.data() == b"ab")
