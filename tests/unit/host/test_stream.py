"""One connection for a whole page: events and any number of logs, multiplexed."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from hakuriver.errors import StoreError
from hakuriver.host import retention
from hakuriver.host import stream as module
from hakuriver.host.stream import multiplex
from hakuriver.model.messages import (
    Launch,
    LogChunk,
    LogClose,
    LogCredit,
    LogEnd,
    LogOpen,
    LogOpened,
)
from hakuriver.model.submission import LogWish, StreamRequest
from hakuriver.model.tasks import TaskState
from support.host_world import completed, known, node_info, started, until

if TYPE_CHECKING:
    from support.host_server import Server, Wire

pytestmark = pytest.mark.asyncio


class Reader:
    """Reads a stream and keeps its lines, until it is told to stop."""

    def __init__(self, server: Server, *logs: LogWish, after: int | None = None) -> None:
        request = StreamRequest(after=after, logs=list(logs))
        self.source = multiplex(server.services, request)
        self.lines: list[Any] = []
        self._work: asyncio.Task[None] | None = None

    async def piece(self) -> list[Any]:
        """Read one more piece by hand, and return its lines."""
        chunk = await asyncio.wait_for(anext(self.source), 30)
        assert chunk.endswith(b"\n")
        found = [json.loads(line) for line in chunk.splitlines()]
        self.lines += found
        return found

    def begin(self) -> Reader:
        self._work = asyncio.create_task(self._read())
        return self

    async def _read(self) -> None:
        async for chunk in self.source:
            self.lines += [json.loads(line) for line in chunk.splitlines()]

    def log(self, task_id: int, stream: str = "stdout") -> list[Any]:
        """Return what came of one log."""
        news = [line["log"] for line in self.lines if "log" in line]
        return [one for one in news if (one["id"], one["stream"]) == (str(task_id), stream)]

    def text(self, task_id: int, stream: str = "stdout") -> str:
        return "".join(one.get("data", "") for one in self.log(task_id, stream))

    def states(self, task_id: int) -> list[str]:
        tasks = [line["event"].get("task") for line in self.lines if "event" in line]
        return [task["status"] for task in tasks if task and task["task_id"] == str(task_id)]

    async def stop(self) -> None:
        if self._work is not None:
            self._work.cancel()
            with suppress(asyncio.CancelledError):
                await self._work
        await self.source.aclose()


def wish(task_id: int | str, stream: str = "stdout", offset: int = 0) -> LogWish:
    return LogWish(id=str(task_id), stream=stream, offset=offset)  # type: ignore[arg-type]


async def running(server: Server, count: int = 1) -> tuple[Wire, list[int]]:
    wire = await server.join("n", node_info(range(max(2, count))))
    tasks = await server.submitted(targets=["n"] * count)
    for task_id in tasks:
        assert (await wire.hear_a(Launch)).task_id in tasks
        await wire.say(started(task_id))
    states = server.world.cluster.tasks
    await until(lambda: all(states[task].status is TaskState.RUNNING for task in tasks))
    return wire, tasks


async def opened(wire: Wire, count: int = 1) -> dict[tuple[int, str], int]:
    """Answer the host's next requests for logs; return their numbers by task and stream."""
    numbers: dict[tuple[int, str], int] = {}
    while len(numbers) < count:
        request = await wire.hear()
        assert request is not None
        if isinstance(request, LogOpen):
            numbers[request.task_id, request.stream] = number = request.subscription
            offset = request.offset
            await wire.say(LogOpened(subscription=number, size=offset, offset=offset))
    return numbers


# -- lines --------------------------------------------------------------------------------


async def test_the_first_line_is_the_rev_it_starts_after(server: Server) -> None:
    await server.join()
    now = server.world.cluster.feed.rev
    for after, revs in ((None, [now]), (0, [0]), (now, [now])):
        reader = Reader(server, wish(1), after=after)
        assert [line["event"] for line in await reader.piece()] == [{"rev": rev} for rev in revs]
        await reader.stop()


async def test_changes_after_a_rev_come_first_of_all(server: Server) -> None:
    await server.join()
    before = server.world.cluster.feed.rev
    (task_id,) = await server.submitted()
    reader = Reader(server, after=before).begin()
    await until(lambda: reader.states(task_id) == ["assigning"])
    assert all(set(line) == {"event"} for line in reader.lines)
    await server.world.start(task_id)
    await until(lambda: reader.states(task_id) == ["assigning", "running"])
    revs = [line["event"]["rev"] for line in reader.lines]
    assert revs == sorted(revs)
    assert revs[0] == before
    await reader.stop()


async def test_a_rev_of_another_database_is_a_reset(server: Server) -> None:
    rev = server.world.cluster.feed.rev
    reader = Reader(server, after=rev + 9)
    assert await reader.piece() == [{"event": {"rev": rev + 9}}]
    assert await reader.piece() == [{"event": {"rev": rev, "reset": True}}]
    await reader.stop()


async def test_events_and_both_logs_of_several_tasks_share_a_stream(server: Server) -> None:
    wire, (one, two) = await running(server, 2)
    logs = [wish(one), wish(one, "stderr"), wish(two, offset=3)]
    reader = Reader(server, *logs).begin()
    numbers = await opened(wire, 3)
    assert set(numbers) == {(one, "stdout"), (one, "stderr"), (two, "stdout")}
    for key, offset, data in (
        ((one, "stdout"), 0, b"first\n"),
        ((two, "stdout"), 3, b"other\n"),
        ((one, "stderr"), 0, "é\n".encode()),
        ((one, "stdout"), 6, b"second\n"),
        ((one, "stdout"), 13, b"\xff\n"),
    ):
        await wire.say(LogChunk(subscription=numbers[key], offset=offset, data=data))
    await until(lambda: len(reader.log(one)) == 3)
    await until(lambda: reader.text(one, "stderr") and reader.text(two))
    assert reader.text(one) == "first\nsecond\n"
    assert reader.text(one, "stderr") == "é\n"
    assert reader.text(two) == "other\n"
    assert [line.get("b64") for line in reader.log(one)][-1] == "/wo="
    # A log that ends leaves the others, and the events, as they were.
    await wire.say(LogEnd(subscription=numbers[one, "stdout"], size=15), completed(one))
    await until(lambda: "end" in reader.log(one)[-1])
    assert reader.log(one)[-1]["end"]["status"] == "completed"
    await until(lambda: reader.states(one)[-1:] == ["completed"])
    await wire.say(LogChunk(subscription=numbers[two, "stdout"], offset=9, data=b"more"))
    await until(lambda: reader.text(two) == "other\nmore")
    await reader.stop()
    assert server.services.subscriptions._open == {}


async def test_a_log_keeps_its_order(server: Server) -> None:
    wire, (task_id,) = await running(server)
    reader = Reader(server, wish(task_id)).begin()
    number = (await opened(wire))[task_id, "stdout"]
    lines = [f"line {index}\n".encode() for index in range(200)]
    offset = 0
    for line in lines:
        await wire.say(LogChunk(subscription=number, offset=offset, data=line))
        offset += len(line)
    await wire.say(LogEnd(subscription=number, size=offset), completed(task_id))
    await until(lambda: reader.log(task_id) and "end" in reader.log(task_id)[-1])
    assert reader.text(task_id).encode() == b"".join(lines)
    offsets = [one["offset"] for one in reader.log(task_id) if "offset" in one]
    assert offsets == sorted(set(offsets))
    await reader.stop()


async def test_the_same_log_twice_comes_twice(server: Server) -> None:
    wire, (task_id,) = await running(server)
    reader = Reader(server, wish(task_id), wish(task_id)).begin()
    for _ in range(2):
        number = (await opened(wire))[task_id, "stdout"]
        await wire.say(LogChunk(subscription=number, offset=0, data=b"x"))
    await until(lambda: reader.text(task_id) == "xx")
    await reader.stop()


# -- errors -------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", ["1", "x", "", "9" * 400, "../etc", "-1", "\u0660", "1\n2"])
async def test_a_log_that_is_not_there_ends_with_its_error_alone(server: Server, bad: str) -> None:
    wire, (task_id,) = await running(server)
    reader = Reader(server, wish(bad), wish(task_id)).begin()
    number = (await opened(wire))[task_id, "stdout"]
    await wire.say(LogChunk(subscription=number, offset=0, data=b"good"))
    await until(lambda: reader.text(task_id) == "good")
    errors = [line["log"] for line in reader.lines if "error" in line.get("log", {})]
    assert [(one["id"], one["stream"]) for one in errors] == [(bad, "stdout")]
    assert "no task" in errors[0]["error"]
    assert len(errors[0]["error"]) < 200
    await reader.stop()


async def test_a_log_that_cannot_be_read_ends_with_its_reason(server: Server) -> None:
    wire, (task_id,) = await running(server)
    reader = Reader(server, wish(task_id)).begin()
    request = None
    while not isinstance(request, LogOpen):
        request = await wire.hear()
    await wire.say(LogOpened(subscription=request.subscription, size=0, offset=0, error="a link"))
    await until(lambda: reader.log(task_id))
    (news,) = reader.log(task_id)
    assert set(news) == {"id", "stream", "error"}
    assert "a link" in news["error"]
    await server.world.finish(task_id)
    await until(lambda: reader.states(task_id) == ["completed"])
    await reader.stop()


async def test_a_log_that_was_removed_is_an_error(server: Server) -> None:
    _, (task_id,) = await running(server)
    await server.world.finish(task_id)
    await retention.discarded(server.world.cluster, "n", [task_id])
    reader = Reader(server, wish(task_id)).begin()
    await until(lambda: reader.log(task_id))
    (news,) = reader.log(task_id)
    assert "gone" in news["error"]
    await reader.stop()


async def test_a_feed_that_fails_ends_the_stream(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    await server.join()
    await server.world.settle()
    feed = server.world.cluster.feed

    async def failing(_after: int) -> None:
        raise StoreError("the host's store cannot be read: gone")

    monkeypatch.setattr(feed, "_replay", failing)
    monkeypatch.setattr(feed, "_before_ring", feed.rev)
    reader = Reader(server, after=0)
    assert await reader.piece() == [{"event": {"rev": 0}}]
    with pytest.raises(StoreError):
        await reader.piece()
    await reader.stop()


async def test_a_log_waits_for_its_node_and_goes_on(server: Server) -> None:
    wire, (task_id,) = await running(server)
    reader = Reader(server, wish(task_id)).begin()
    number = (await opened(wire))[task_id, "stdout"]
    await wire.say(LogChunk(subscription=number, offset=0, data=b"one"))
    await until(lambda: reader.text(task_id) == "one")
    record = await server.world.record(task_id)
    wire.socket.close()
    await until(lambda: not server.world.cluster.nodes.online_link("n"))
    wire = await server.join("n", told=[known(record, at=1.0)])
    request = None
    while not isinstance(request, LogOpen):
        request = await wire.hear()
    assert request.offset == 3
    await reader.stop()


# -- who does not read, and who leaves ----------------------------------------------------


async def test_a_reader_that_pauses_holds_no_more_than_a_few_pieces(server: Server) -> None:
    wire, (task_id,) = await running(server)
    reader = Reader(server, wish(task_id))
    assert len(await reader.piece()) == 1
    # Nobody reads on: the second piece is asked for once, so that the log is opened.
    pull = asyncio.ensure_future(reader.piece())
    number = (await opened(wire))[task_id, "stdout"]
    count = module._WAITING + 100
    for index in range(count):
        await wire.say(LogChunk(subscription=number, offset=index, data=b"x"))
    await pull
    # Credit is granted for what has gone on to the reader or waits for it, and for no more.
    credited = (await wire.hear_a(LogCredit)).size
    with suppress(TimeoutError):
        while True:
            message = await asyncio.wait_for(wire.hear_a(LogCredit), 0.1)
            credited += message.size
    assert credited <= module._WAITING + 2
    # It reads on, and has missed nothing.
    reader.begin()
    await until(lambda: reader.text(task_id) == "x" * count)
    await reader.stop()


async def test_events_wait_for_a_reader_that_pauses_without_filling_memory(
    server: Server,
) -> None:
    wire, (task_id,) = await running(server)
    reader = Reader(server, wish(task_id))
    await reader.piece()
    pull = asyncio.ensure_future(reader.piece())
    number = (await opened(wire))[task_id, "stdout"]
    for index in range(module._WAITING * 2):
        await wire.say(LogChunk(subscription=number, offset=index, data=b"x"))
    await pull
    for index in range(50):
        await server.world.cluster.nodes.drain("n", draining=index % 2 == 0)
    last = server.world.cluster.feed.rev
    reader.begin()
    await until(lambda: any(line.get("event", {}).get("rev") == last for line in reader.lines))
    revs = [line["event"]["rev"] for line in reader.lines if "event" in line]
    assert revs == sorted(revs)
    await reader.stop()


async def test_whoever_leaves_closes_every_log_and_leaves_nothing(server: Server) -> None:
    wire, tasks = await running(server, 3)
    before = asyncio.all_tasks()
    reader = Reader(server, *map(wish, tasks)).begin()
    numbers = await opened(wire, 3)
    await reader.stop()
    closed: set[int] = set()
    while len(closed) < 3:
        closed.add((await wire.hear_a(LogClose)).subscription)
    assert closed == set(numbers.values())
    assert server.services.subscriptions._open == {}
    assert asyncio.all_tasks() <= before


async def test_whoever_leaves_after_the_first_line_leaves_nothing(server: Server) -> None:
    _, (task_id,) = await running(server)
    before = asyncio.all_tasks()
    reader = Reader(server, wish(task_id))
    await reader.piece()
    await reader.stop()
    assert asyncio.all_tasks() <= before
    assert server.services.subscriptions._open == {}


async def test_a_queued_task_is_waited_for(server: Server) -> None:
    wire = await server.join("n", node_info([0]))
    first, second = await server.submitted(targets=["n", "n"])
    await wire.hear_a(Launch)
    reader = Reader(server, wish(second)).begin()
    await wire.say(completed(first))
    await until(lambda: reader.states(second) == ["assigning"])
    assert reader.log(second) == []
    await wire.say(started(second))
    number = (await opened(wire))[second, "stdout"]
    await wire.say(LogChunk(subscription=number, offset=0, data=b"x"))
    await until(lambda: reader.text(second) == "x")
    await reader.stop()
