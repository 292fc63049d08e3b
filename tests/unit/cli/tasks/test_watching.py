from __future__ import annotations

import asyncio
import json
import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from hakuriver.cli.shared.tables import Table
from hakuriver.cli.tasks import watching
from hakuriver.cli.tasks.arguments import make_parser
from hakuriver.cli.tasks.screen import Screen
from hakuriver.cli.tasks.subjects import Subject
from hakuriver.client import remote
from hakuriver.client.aio import AsyncClient
from hakuriver.errors import HostUnreachable, NotFound
from hakuriver.model.nodes import NodeStatus
from unit.client.fakes import FakeCluster, make_node, make_view

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable


@pytest.fixture
def cluster() -> FakeCluster:
    fake = FakeCluster()
    fake.put_node(make_node("n1"))
    fake.add(make_view("7", "running", name="mine", owner="alice"))
    return fake


def subject_of(*arguments: str) -> Subject:
    options = make_parser().parse_args(["--watch", *arguments])
    given = [name for name in ("list_nodes", "list_tasks") if getattr(options, name)]
    given += [name for name in ("status", "health") if getattr(options, name) is not None]
    return Subject(given[0] if given else "watch", options)


class Shown:
    """What was printed so far, in whole lines."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.out = ""
        self.err = ""

    @property
    def lines(self) -> list[str]:
        out, err = self._capsys.readouterr()
        self.out += out
        self.err += err
        return self.out.splitlines()

    async def until(self, probe: Callable[[], object]) -> None:
        async with asyncio.timeout(30):
            while not probe():  # noqa: ASYNC110 - it looks at what has no event of its own
                await asyncio.sleep(0.005)


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str]) -> Shown:
    return Shown(capsys)


@asynccontextmanager
async def lines_of(
    cluster: FakeCluster, *arguments: str, as_json: bool = False
) -> AsyncGenerator[asyncio.Task[None]]:
    """Watch as a pipe would see it."""
    async with AsyncClient(cluster=cluster) as client:
        lines = watching._Lines(client, subject_of(*arguments), as_json=as_json)
        watch = asyncio.create_task(lines.run())
        try:
            yield watch
        finally:
            watch.cancel()
            await asyncio.wait({watch})


@pytest.mark.asyncio
async def test_every_change_is_a_line(cluster: FakeCluster, shown: Shown) -> None:
    async with lines_of(cluster):
        await shown.until(lambda: len(shown.lines) == 2)
        cluster.change("7", "completed", exit_code=0)
        cluster.put_node(make_node("n1", status=NodeStatus.OFFLINE, draining=True))
        await cluster.forget("n1")
        await shown.until(lambda: len(shown.lines) == 5)
    assert shown.lines == [
        "node n1: online, 3 of 8 cores in use",
        "task 7 on node1: running",
        "task 7 on node1: completed",
        "node n1: offline, draining, 3 of 8 cores in use",
        "node n1: forgotten",
    ]


@pytest.mark.asyncio
async def test_json_is_one_object_a_line(cluster: FakeCluster, shown: Shown) -> None:
    async with lines_of(cluster, as_json=True):
        await shown.until(lambda: len(shown.lines) == 2)
        cluster.change("7", "completed")
        await shown.until(lambda: len(shown.lines) == 3)
    node, _, task = map(json.loads, shown.lines)
    assert node["node"]["hostname"] == "n1"
    assert (task["task"]["task_id"], task["task"]["status"]) == ("7", "completed")


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "filters",
    [
        ("--state", "failed"),
        ("--node", "n9"),
        ("--batch", "5"),
        ("--name", "other"),
        ("--mine",),
    ],
)
async def test_only_what_the_filters_let_through_is_told(
    cluster: FakeCluster, shown: Shown, filters: tuple[str, ...]
) -> None:
    fits = {"status": "failed", "assigned_node": "n9", "batch_id": "5", "name": "other"}
    async with lines_of(cluster, "--list-tasks", *filters):
        cluster.add(make_view("8", owner="bob", name="mine"))
        if filters == ("--mine",):
            await shown.until(lambda: shown.lines)
            cluster.add(make_view("9", owner="alice"))
            cluster.change("9", "running")
            await shown.until(lambda: len(shown.lines) == 3)
            assert [line.split()[1] for line in shown.lines] == ["7", "9", "9"]
            return
        cluster.add(make_view("9", **fits))
        await shown.until(lambda: shown.lines)
        cluster.change("7", "completed")
        cluster.change("9", "failed")
        await shown.until(lambda: len(shown.lines) == 2)
        assert {line.split()[1] for line in shown.lines} == {"9"}


@pytest.mark.asyncio
async def test_one_task_is_watched_to_its_end(cluster: FakeCluster, shown: Shown) -> None:
    async with lines_of(cluster, "--status", "7") as watch:
        await shown.until(lambda: shown.lines)
        cluster.add(make_view("8"))
        cluster.finish("7", 4)
        async with asyncio.timeout(30):
            await watch
    assert shown.lines == ["task 7 on node1: running", "task 7 on node1: failed (exit code 4)"]


@pytest.mark.asyncio
async def test_a_host_that_restarts_is_awaited_and_no_change_is_missed(
    cluster: FakeCluster, shown: Shown
) -> None:
    async with lines_of(cluster, "--list-tasks"):
        await shown.until(lambda: shown.lines)
        cluster.down = HostUnreachable("gone")
        cluster.break_off()
        cluster.change("7", "completed")
        await shown.until(lambda: shown.lines and "waiting for it" in shown.err)
        cluster.down = None
        await shown.until(lambda: len(shown.lines) == 2)
        cluster.break_off(forget=True)
        cluster.change("7", "lost")
        await shown.until(lambda: len(shown.lines) == 3)
    assert shown.err.count("waiting for it") == 2
    assert shown.lines[1].endswith("completed")


@pytest.mark.asyncio
async def test_nobody_there_ends_it(cluster: FakeCluster) -> None:
    cluster.down = HostUnreachable("nobody")
    async with lines_of(cluster) as watch:
        with pytest.raises(HostUnreachable):
            await asyncio.wait_for(watch, 30)


@pytest.mark.asyncio
async def test_a_drawing_follows_what_happens(cluster: FakeCluster, shown: Shown) -> None:
    async with AsyncClient(cluster=cluster) as client:
        with Screen() as screen:
            drawing = watching._Drawing(client, subject_of("--status", "7"), screen)
            running = asyncio.create_task(drawing.run())
            await shown.until(lambda: "running" in "".join(shown.lines))
            cluster.down = HostUnreachable("gone")
            cluster.break_off()
            await shown.until(lambda: "waiting for it" in "".join(shown.lines))
            cluster.down = None
            cluster.finish("7")
            async with asyncio.timeout(30):
                await running
    last = "\n".join(shown.lines).rpartition("\x1b[?1049l")[2]
    assert "completed" in last
    assert "waiting for it" not in last


def test_a_drawing_is_cut_to_the_screen_and_left_whole(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "hakuriver.cli.tasks.screen.shutil.get_terminal_size", lambda: os.terminal_size((20, 4))
    )
    with Screen() as screen:
        capsys.readouterr()
        screen.draw([Table(("name",), tuple((f"row {number}",) for number in range(9)))])
        drawn = capsys.readouterr().out
        assert drawn.count("\n") == 3
        assert "row 1" in drawn
        assert "row 2" not in drawn
        assert "and 7 more lines" in drawn
    assert capsys.readouterr().out.endswith("row 8\n")


def test_a_mistake_is_told_as_by_the_query(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HAKURIVER_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(remote.HttpCluster, "at", lambda _: cluster)
    options = make_parser().parse_args(["--watch", "--status", "99"])
    with pytest.raises(NotFound, match="99"):
        watching.watch("status", options)
