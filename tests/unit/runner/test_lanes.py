from __future__ import annotations

import asyncio
import logging

import pytest

from hakuriver.runner.lanes import Lanes
from support.runner_tools import eventually


@pytest.mark.asyncio
async def test_order_within_a_lane_and_none_between_lanes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    lanes, done, gate = Lanes(), list[str](), asyncio.Event()

    async def wait() -> None:
        await gate.wait()
        done.append("first")

    async def note(word: str) -> None:
        done.append(word)

    async def fail() -> None:
        raise ValueError("broken on purpose")

    lanes.put(1, wait)
    lanes.put(1, fail)
    lanes.put(1, lambda: note("second"))
    lanes.put(2, lambda: note("other"))
    await eventually(lambda: done == ["other"])
    with caplog.at_level(logging.CRITICAL):
        gate.set()
        await eventually(lambda: done == ["other", "first", "second"])
    await eventually(lambda: not lanes._last)
    await lanes.close()


@pytest.mark.asyncio
async def test_closing_cancels_what_waits() -> None:
    lanes = Lanes()
    lanes.put(1, asyncio.Event().wait)  # type: ignore[arg-type]
    lanes.put(1, asyncio.Event().wait)  # type: ignore[arg-type]
    await lanes.close()
    await eventually(lambda: not lanes._last)
