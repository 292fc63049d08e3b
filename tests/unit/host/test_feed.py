from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hakuriver.host import feed as module
from hakuriver.host.feed import Feed
from hakuriver.model.views import Event
from support.host_world import until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

pytestmark = pytest.mark.asyncio


class Log:
    """Stands for the store: all events there ever were."""

    def __init__(self, *, rev: int = 0, limit: int = 1000) -> None:
        self.events: list[Event] = []
        self.asked: list[int] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self._limit = limit
        self.feed = Feed(self.replay, rev=rev)

    async def replay(self, after: int) -> list[Event] | None:
        self.asked.append(after)
        await self.gate.wait()
        found = [event for event in self.events if event.rev > after]
        return found if len(found) < self._limit else None

    def happen(self, *revs: int) -> None:
        for rev in revs:
            self.events.append(Event(rev=rev))
            self.feed.publish(self.events[-1])


async def take(stream: AsyncGenerator[bytes, None], count: int) -> list[Any]:
    """Return at least `count` lines, in order."""
    lines: list[Any] = []
    while len(lines) < count:
        chunk = await asyncio.wait_for(anext(stream), 30)
        assert chunk.endswith(b"\n")
        lines += [msgspec.json.decode(line) for line in chunk.splitlines()]
    return lines


async def quiet(stream: AsyncGenerator[bytes, None]) -> None:
    """See that nothing more comes now."""
    pull = asyncio.ensure_future(anext(stream))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not pull.done()
    pull.cancel()
    await asyncio.gather(pull, return_exceptions=True)


async def test_without_after_only_what_is_new_follows() -> None:
    log = Log(rev=5)
    log.happen(6, 7)
    stream = log.feed.follow(None)
    assert await take(stream, 1) == [{"rev": 7}]
    log.happen(8)
    assert await take(stream, 1) == [{"rev": 8}]
    await quiet(stream)
    assert log.asked == []


async def test_what_the_ring_has_is_replayed_from_it() -> None:
    log = Log(rev=5)
    log.happen(6, 7, 8)
    stream = log.feed.follow(6)
    assert await take(stream, 3) == [{"rev": 6}, {"rev": 7}, {"rev": 8}]
    assert log.asked == []
    await stream.aclose()


async def test_what_is_older_than_this_process_comes_from_the_store() -> None:
    log = Log(rev=5)
    log.events = [Event(rev=rev) for rev in (3, 4, 5)]
    stream = log.feed.follow(3)
    assert await take(stream, 3) == [{"rev": 3}, {"rev": 4}, {"rev": 5}]
    log.happen(6)
    assert await take(stream, 1) == [{"rev": 6}]
    await stream.aclose()


async def test_changes_during_a_replay_are_not_missed() -> None:
    log = Log(rev=5)
    log.events = [Event(rev=4)]
    log.gate.clear()
    stream = log.feed.follow(2)
    assert await take(stream, 1) == [{"rev": 2}]
    pull = asyncio.ensure_future(take(stream, 3))
    await until(lambda: log.asked)
    log.happen(6)
    log.gate.set()
    # The one that happened meanwhile may come twice, but it comes.
    assert [line["rev"] for line in await pull] == [4, 6, 6]
    log.happen(7)
    assert await take(stream, 1) == [{"rev": 7}]
    await stream.aclose()


async def test_a_slow_follower_goes_on_from_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RING", 4)
    log = Log()
    stream = log.feed.follow(None)
    assert await take(stream, 1) == [{"rev": 0}]
    log.happen(*range(1, 12))
    assert [line["rev"] for line in await take(stream, 11)] == list(range(1, 12))
    assert log.asked == [0]
    log.happen(12)
    assert await take(stream, 1) == [{"rev": 12}]
    await stream.aclose()


async def test_too_much_to_catch_up_is_a_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RING", 4)
    log = Log(limit=6)
    stream = log.feed.follow(0)
    assert await take(stream, 1) == [{"rev": 0}]
    log.happen(*range(1, 12))
    assert await take(stream, 1) == [{"rev": 11, "reset": True}]
    log.happen(12)
    assert await take(stream, 1) == [{"rev": 12}]
    await stream.aclose()


async def test_a_rev_from_the_future_belongs_to_another_database() -> None:
    log = Log(rev=5)
    stream = log.feed.follow(99)
    assert await take(stream, 2) == [{"rev": 99}, {"rev": 5, "reset": True}]
    log.happen(6)
    assert await take(stream, 1) == [{"rev": 6}]
    await stream.aclose()


async def test_one_who_pauses_between_any_two_lines_misses_nothing() -> None:
    log = Log()
    stream = log.feed.follow(None)
    seen = [line["rev"] for line in await take(stream, 1)]
    for rev in range(1, 60):
        log.happen(rev)
        if rev % 7 == 0:
            seen += [line["rev"] for line in await take(stream, 1)]
    while seen[-1] < 59:
        seen += [line["rev"] for line in await take(stream, 1)]
    assert sorted(set(seen)) == list(range(60))
    assert seen == sorted(seen)
    await stream.aclose()


async def test_followers_do_not_disturb_one_another() -> None:
    log = Log()
    streams = [log.feed.follow(None) for _ in range(3)]
    for stream in streams:
        await take(stream, 1)
    await streams[0].aclose()
    log.happen(1)
    for stream in streams[1:]:
        assert await take(stream, 1) == [{"rev": 1}]
        await stream.aclose()


async def test_the_ring_is_bounded_in_bytes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RING_BYTES", 100)
    log = Log()
    log.happen(*range(1, 51))
    assert sum(len(encoded) for _, encoded in log.feed._ring) <= 100
    stream = log.feed.follow(0)
    assert [line["rev"] for line in await take(stream, 51)] == list(range(51))
    await stream.aclose()


async def test_a_sign_of_life_bears_what_the_follower_has_got(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "KEEP_ALIVE_SECONDS", 0.01)
    log = Log(rev=5)
    stream = log.feed.follow(3)
    log.events = [Event(rev=rev) for rev in (4, 5)]
    assert [line["rev"] for line in await take(stream, 3)] == [3, 4, 5]
    assert await take(stream, 2) == [{"rev": 5}, {"rev": 5}]
    log.happen(6, 7)
    assert [line["rev"] for line in await take(stream, 2)] == [6, 7]
    assert await take(stream, 1) == [{"rev": 7}]
    await stream.aclose()


async def test_a_node_that_was_forgotten_is_an_event_like_others() -> None:
    log = Log(rev=5)
    stream = log.feed.follow(None)
    await take(stream, 1)
    log.feed.publish(Event(rev=6, forgotten="n"))
    assert await take(stream, 1) == [{"rev": 6, "forgotten": "n"}]
    # From the ring it is told again, as long as it is there.
    late = log.feed.follow(5)
    assert await take(late, 2) == [{"rev": 5}, {"rev": 6, "forgotten": "n"}]
    for one in (stream, late):
        await one.aclose()


def scan(feed: Feed, seen: int) -> tuple[int, list[bytes]]:
    """What `Feed._since` returns, found by a look at every entry."""
    news = [entry for entry in feed._ring if entry[0] > seen]
    piece = news[: module._PIECE]
    reached = feed.rev if len(piece) == len(news) else piece[-1][0]
    return reached, [encoded for _, encoded in piece]


@given(
    start=st.integers(0, 5),
    steps=st.lists(st.integers(1, 4), max_size=30),
    ring=st.integers(1, 12),
    piece=st.integers(1, 5),
)
async def test_the_next_piece_is_the_one_that_a_scan_of_the_ring_finds(
    start: int, steps: list[int], ring: int, piece: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_RING", ring)
        patch.setattr(module, "_PIECE", piece)
        log = Log(rev=start)
        rev = start
        for step in steps:
            rev += step
            log.happen(rev)
        for seen in range(start - 1, rev + 2):
            assert log.feed._since(seen) == scan(log.feed, seen)


async def test_a_piece_costs_the_same_however_far_behind_its_follower_is() -> None:
    class Counting:
        """Stands for the ring and counts the looks at its entries; it cannot be gone through."""

        looks = 0
        __iter__ = None

        def __len__(self) -> int:
            return len(entries)

        def __getitem__(self, place: int) -> tuple[int, bytes]:
            self.looks += 1
            return entries[place]

    log = Log()
    log.happen(*range(1, 4097))
    entries = log.feed._ring
    log.feed._ring = ring = cast("Any", Counting())
    for seen in (0, 2000, 4000, 4095, 4096):
        ring.looks = 0
        _, lines = log.feed._since(seen)
        assert len(lines) == min(256, 4096 - seen)
        assert ring.looks <= len(lines) + 13
