from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hakuriver.errors import NotFound
from hakuriver.model.ids import EPOCH_MS, Snowflakes, parse_id

NOW = 1_800_000_000_000
# Until 2094 the ids have 63 bits.
MOMENTS = st.integers(-(10**13), EPOCH_MS + (1 << 41) - 100)


@given(st.lists(MOMENTS, min_size=1, max_size=60), st.integers(0, 1023))
def test_ids_grow_whatever_the_clock_does(moments: list[int], instance: int) -> None:
    clock = iter(moments)
    flakes = Snowflakes(lambda: next(clock), instance=instance)
    given_ids = [flakes.next() for _ in moments]
    assert given_ids == sorted(set(given_ids))
    assert all(0 <= task_id < 1 << 63 for task_id in given_ids)
    assert {task_id >> 12 & 1023 for task_id in given_ids} == {instance}


def test_a_burst_within_one_millisecond_is_distinct_and_sorted() -> None:
    flakes = Snowflakes(lambda: NOW)
    burst = [flakes.next() for _ in range(10_000)]
    assert burst == sorted(burst)
    assert len(set(burst)) == 10_000
    # Three milliseconds of ids at most: it borrows from the future no more than it must.
    assert (burst[-1] >> 22) - (burst[0] >> 22) == 2


def test_the_time_can_be_read_from_an_id() -> None:
    assert Snowflakes(lambda: NOW).next() >> 22 == NOW - EPOCH_MS


@given(st.integers(1, (1 << 62) - 1), st.integers(0, 1023))
def test_it_goes_on_after_the_last_one(last: int, instance: int) -> None:
    flakes = Snowflakes(lambda: EPOCH_MS, last=last, instance=instance)
    following = [flakes.next() for _ in range(3)]
    assert following == sorted({last, *following} - {last})
    assert following[0] > last


@pytest.mark.parametrize("instance", [-1, 1024])
def test_instances_have_bounds(instance: int) -> None:
    with pytest.raises(ValueError, match="instance"):
        Snowflakes(lambda: NOW, instance=instance)


@given(st.integers(0, (1 << 63) - 1))
def test_an_id_is_read_from_its_decimal_spelling(task_id: int) -> None:
    assert parse_id(str(task_id)) == task_id


@pytest.mark.parametrize(
    "text",
    ["", "x", "-1", "+1", " 1", "1\n", "1.0", "0x1", "../x", "9" * 19, "9" * 5000, "٣", "1_0"],
)
def test_nothing_bears_another_spelling(text: str) -> None:
    with pytest.raises(NotFound, match="no batch"):
        parse_id(text, "batch")


def test_giving_ids_is_cheap() -> None:
    flakes = Snowflakes(lambda: time.time_ns() // 1_000_000)

    def seconds() -> float:
        before = time.perf_counter()
        for _ in range(1000):
            flakes.next()
        return time.perf_counter() - before

    # The machine may pause for a while.
    assert min(seconds() for _ in range(5)) < 1


def test_ids_that_were_seen_elsewhere_are_never_given() -> None:
    flakes = Snowflakes(lambda: NOW)
    seen = ((NOW - EPOCH_MS + 5000) << 22) + 17
    flakes.observe(seen)
    assert flakes.next() > seen
    # One that is smaller changes nothing.
    last = flakes.next()
    flakes.observe(seen - (1 << 30))
    assert last < flakes.next() < last + (1 << 22)


def test_an_id_of_a_far_future_does_not_take_all_others_along() -> None:
    flakes = Snowflakes(lambda: NOW)
    for far in ((1 << 63) - 1, (NOW - EPOCH_MS + 2 * 86_400_000) << 22):
        flakes.observe(far)
        assert flakes.next() >> 22 == NOW - EPOCH_MS


@given(st.lists(st.integers(0, (1 << 63) - 1), max_size=20))
def test_ids_grow_whatever_was_seen(seen: list[int]) -> None:
    flakes = Snowflakes(lambda: NOW)
    given_ids = []
    for one in seen:
        given_ids.append(flakes.next())
        flakes.observe(one)
    assert given_ids == sorted(set(given_ids))
