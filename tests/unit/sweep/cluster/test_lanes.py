from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hakuriver.sweep.cluster.lanes import MAX_FLYING, Lane, Lanes


def test_a_task_goes_where_the_load_is_least() -> None:
    lanes = Lanes([Lane("wide", 4), Lane("narrow", 1)])
    taken = [lane.target if (lane := lanes.take(index)) else None for index in range(6)]
    assert sorted(filter(None, taken)) == ["narrow", "wide", "wide", "wide", "wide"]
    assert taken[5] is None


def test_one_waits_where_there_was_no_room_and_none_where_it_is_closed() -> None:
    lanes = Lanes([Lane("full", 0), Lane("gone", 9, closed=True)])
    first = lanes.take(0)
    assert first is not None
    assert first.target == "full"
    assert lanes.take(1) is None
    first.starts(0)
    assert lanes.take(1) is first
    assert not lanes.closed
    first.closed = True
    assert lanes.closed
    assert lanes.at("of an earlier pass").closed


def test_of_quick_tasks_more_wait() -> None:
    lanes = Lanes([Lane("one", 1)])
    lane = lanes.take(0)
    assert lane is not None
    lane.ends(0, 0.01)
    assert [lanes.take(index) for index in range(9)] == [lane] * 8 + [None]
    for index in range(8):
        lane.starts(index)
    lane.ends(0, 3600.0)
    assert [lanes.take(9), lanes.take(10)] == [lane, None]


@given(st.lists(st.integers(0, 300), min_size=1, max_size=4), st.data())
def test_never_more_than_there_is_room_for(rooms: list[int], data: st.DataObject) -> None:
    lanes = Lanes([Lane(str(number), room) for number, room in enumerate(rooms)])
    flying: dict[int, Lane] = {}
    for index in range(data.draw(st.integers(0, 250))):
        lane = lanes.take(index)
        if lane is not None:
            flying[index] = lane
        elif flying:
            ended = data.draw(st.sampled_from(sorted(flying)))
            flying.pop(ended).ends(ended)
        assert lanes.flying == len(flying) <= MAX_FLYING
        for number, room in enumerate(rooms):
            assert len(lanes.at(str(number)).waiting) <= max(1, room)
