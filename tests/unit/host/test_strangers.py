from __future__ import annotations

from functools import partial

from hakuriver.host.strangers import Strangers


def test_the_oldest_gives_way_and_who_is_known_does_not() -> None:
    closed: list[int] = []
    strangers = Strangers(limit=3)
    for number in range(3):
        strangers.add(number, partial(closed.append, number))
    strangers.forget(0)
    for number in (3, 4):
        strangers.add(number, partial(closed.append, number))
    assert closed == [1]
    assert len(strangers) == 3
    strangers.forget(1)
    strangers.forget("nobody")
    assert len(strangers) == 3
