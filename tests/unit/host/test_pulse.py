from __future__ import annotations

import pytest

from hakuriver.host.pulse import Pulse

pytestmark = pytest.mark.asyncio


async def test_all_who_wait_for_a_key_are_woken_and_nobody_else() -> None:
    pulse: Pulse[str] = Pulse()
    here, there = pulse.next("a"), pulse.next("b")
    assert pulse.next("a") is here
    pulse.fire("a")
    assert here.is_set()
    assert not there.is_set()


async def test_the_next_change_is_another_event() -> None:
    pulse: Pulse[int] = Pulse()
    first = pulse.next(1)
    pulse.fire(1)
    assert not pulse.next(1).is_set()
    assert first.is_set()


async def test_firing_for_nobody_keeps_nothing() -> None:
    pulse: Pulse[int] = Pulse()
    pulse.fire(1)
    assert not pulse.next(1).is_set()
    pulse.fire(1)
    assert pulse._events == {}
