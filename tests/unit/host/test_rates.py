from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hakuriver.host.rates import _REMEMBERED, Rate


def test_a_burst_is_allowed_and_then_a_steady_rate() -> None:
    rate = Rate(per_second=10, burst=3)
    assert [rate.take("a", 0.0) for _ in range(3)] == [0, 0, 0]
    assert 0 < rate.take("a", 0.0) <= 0.1
    assert rate.take("b", 0.0) == 0
    assert rate.take("a", 0.11) == 0
    assert rate.take("a", 0.12) > 0
    assert [rate.take("a", 99.0) > 0 for _ in range(4)] == [False, False, False, True]


@given(st.lists(st.floats(0, 0.5), min_size=1, max_size=200))
def test_nobody_gets_more_than_burst_and_rate(pauses: list[float]) -> None:
    rate, now, allowed = Rate(per_second=5, burst=4), 0.0, 0
    for pause in pauses:
        now += pause
        allowed += rate.take("a", now) == 0
        assert allowed <= 4 + 5 * now + 1e-6


@given(st.floats(0.001, 10))
def test_whoever_waits_as_long_as_told_is_let_in(early: float) -> None:
    rate = Rate(per_second=3, burst=1)
    rate.take("a", 0.0)
    now = early / 100
    wait = rate.take("a", now)
    assert rate.take("a", now + wait + 1e-6) == 0


def test_only_so_many_are_remembered() -> None:
    rate = Rate(per_second=1, burst=1)
    for number in range(_REMEMBERED + 10):
        rate.take(str(number), 0.0)
    assert len(rate._left) == _REMEMBERED
    assert rate.take(str(_REMEMBERED + 9), 0.0) > 0
    assert rate.take("0", 0.0) == 0
