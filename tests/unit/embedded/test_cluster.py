from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hakuriver.embedded.cluster import Embedded, _shares, up
from hakuriver.errors import InvalidRequest


@given(st.sets(st.integers(0, 300), min_size=1, max_size=64).map(sorted), st.data())
def test_the_nodes_share_all_cpus_evenly(cpus: list[int], data: st.DataObject) -> None:
    nodes = data.draw(st.integers(1, len(cpus)))
    shares = _shares(cpus, nodes)
    assert len(shares) == nodes
    assert [cpu for share in shares for cpu in share] == cpus
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= 1


def test_more_nodes_than_cpus_have_one_each() -> None:
    assert _shares([3, 7], 5) == [[3], [7], [3], [7], [3]]


@pytest.mark.parametrize("nodes", [-1, 0, 10_000])
def test_how_many_nodes_there_can_be(nodes: int) -> None:
    with pytest.raises(InvalidRequest, match=f"{nodes} is not between 1 and"):
        _shares([0, 1, 2, 3], nodes)


def test_a_mistake_is_told_before_anything_is_started() -> None:
    with pytest.raises(InvalidRequest) as caught:
        up(nodes=10_000)
    assert caught.value.field == "nodes"


def test_what_is_shown_holds_no_token() -> None:
    found = Embedded("http://127.0.0.1:1", "hunter2", ("node1", "node2"), started=True)
    assert "hunter2" not in repr(found) + found.describe()
    assert "node1, node2" in found.describe()
    again = Embedded("http://127.0.0.1:1", "hunter2", ("node1",), started=False)
    assert "is up already" in again.describe()
