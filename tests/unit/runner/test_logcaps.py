"""Faults in looking at logs are told once; the other tasks' logs are watched as before."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from hakuriver.logfiles import TaskFiles
from hakuriver.runner import logcaps
from hakuriver.runner.logcaps import LogCaps
from support.runner_tools import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from hakuriver.model.messages import Stream

pytestmark = pytest.mark.asyncio

CAP = 100
BAD, GOOD = 1, 2
FAULTS = [OSError(5, "Input/output error"), PermissionError("no"), ValueError("a fault of ours")]


class Node:
    """Two running tasks with logs, and places at which a fault can be put in."""

    def __init__(self, root: Path) -> None:
        self.files = FaultyFiles(root)
        self.files.make()
        self.live_fault: Exception | None = None
        self.over_fault: Exception | None = None
        self.ended: list[tuple[int, str]] = []
        self.asked: Counter[str] = Counter()
        self.caps = LogCaps(files=self.files, cap=CAP, live=self.live, over=self.over)
        self.looking = asyncio.create_task(self.caps.run())

    def live(self) -> list[int]:
        self.asked["live"] += 1
        if self.live_fault is not None:
            raise self.live_fault
        ended = [task_id for task_id, _ in self.ended]
        return [task_id for task_id in (BAD, GOOD) if task_id not in ended]

    def over(self, task_id: int, reason: str) -> None:
        self.asked[f"over {task_id}"] += 1
        if task_id == BAD and self.over_fault is not None:
            raise self.over_fault
        self.ended.append((task_id, reason))

    def flood(self, task_id: int, stream: Stream = "stdout") -> None:
        TaskFiles(self.files.root).log(task_id, stream).write_bytes(b"x" * (CAP + 1))

    async def ends(self, task_id: int) -> None:
        await eventually(lambda: task_id in dict(self.ended), what=f"{task_id} is ended")

    async def looks(self) -> None:
        """Return after some more looks."""
        seen = self.asked["live"]
        await eventually(lambda: self.asked["live"] > seen + 3, what="it looks on")


class FaultyFiles(TaskFiles):
    """Files of which some cannot be looked at."""

    faults: dict[tuple[int, str], Exception] = {}  # noqa: RUF012 - each test has its own

    def log(self, task_id: int, stream: Stream) -> Path:
        if (fault := self.faults.get((task_id, stream))) is not None:
            raise fault
        return super().log(task_id, stream)


@pytest_asyncio.fixture
async def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Node]:
    monkeypatch.setattr(logcaps, "_PAUSE", 0.01)
    monkeypatch.setattr(FaultyFiles, "faults", {})
    node = Node(tmp_path)
    yield node
    assert not node.looking.done(), "it looks no more"
    node.looking.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await node.looking


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == logcaps.__name__]


@pytest.mark.parametrize("fault", FAULTS, ids=repr)
async def test_a_log_that_cannot_be_looked_at_leaves_the_others_watched(
    node: Node, fault: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    node.files.faults[BAD, "stdout"] = fault
    await node.looks()
    node.flood(GOOD)
    await node.ends(GOOD)
    await node.looks()
    assert told(caplog) == [
        "runner.max_log_bytes of task 1: looking at its stdout failed, it is tried on"
    ]
    # The task's other log is watched as well, and the first one again as soon as it can be.
    node.flood(BAD, "stderr")
    await node.ends(BAD)
    assert "its stderr grew" in dict(node.ended)[BAD]


@pytest.mark.parametrize("fault", FAULTS, ids=repr)
async def test_a_task_that_cannot_be_ended_is_tried_again_and_the_others_are_ended(
    node: Node, fault: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    node.over_fault = fault
    node.flood(BAD)
    node.flood(GOOD)
    await node.ends(GOOD)
    await node.looks()
    assert node.asked[f"over {BAD}"] > 1
    assert told(caplog) == ["runner.max_log_bytes of task 1: ending it failed, it is tried on"]
    assert caplog.records[0].exc_info is not None
    node.over_fault = None
    await node.ends(BAD)


async def test_not_to_know_what_runs_is_no_end(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    node.flood(GOOD)
    node.live_fault = OSError(5, "Input/output error")
    await node.looks()
    node.live_fault = None
    await node.ends(GOOD)
    assert told(caplog) == ["runner.max_log_bytes: looking at the logs failed, it is tried on"]


async def test_logs_that_are_not_there_are_no_fault(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    await node.looks()
    assert not told(caplog)
    assert not node.ended
