from __future__ import annotations

from typing import TYPE_CHECKING

from hakuriver.client import remote
from hakuriver.embedded import waiting
from hakuriver.model.nodes import NodeStatus
from unit.client.fakes import FakeCluster, make_node

if TYPE_CHECKING:
    import pytest


def test_only_nodes_that_are_not_linked_up_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = FakeCluster()
    cluster.put_node(make_node("node1"))
    cluster.put_node(make_node("node2", status=NodeStatus.OFFLINE))
    cluster.put_node(make_node("own", status=NodeStatus.OFFLINE))
    monkeypatch.setattr(remote.HttpCluster, "at", lambda _: cluster)
    waiting.forget_nodes("http://127.0.0.1:1", "t", ["node1", "node2", "node3"])
    assert list(cluster.node_views) == ["node1", "own"]
    assert cluster.closed


def test_where_there_is_nothing_to_forget_nobody_is_asked() -> None:
    waiting.forget_nodes("http://127.0.0.1:1", "t", [])
