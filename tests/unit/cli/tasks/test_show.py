from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from hakuriver._version import __version__
from hakuriver.cli.tasks.show import (
    health_table,
    missing_capabilities,
    node_table,
    numa_summary,
    state_words,
    status_table,
    task_table,
    version_notes,
)
from hakuriver.model.nodes import Capabilities, NodeStatus, NumaNode, NumaUse
from hakuriver.model.tasks import Usage
from hakuriver.model.views import HealthView, NumaAccount, NumaHealth
from unit.client.fakes import make_node, make_view

if TYPE_CHECKING:
    from hakuriver.model.views import TaskView

NODE = make_node()


def test_a_node_shows_what_it_has_and_gave_out() -> None:
    table = node_table([NODE], now=103.0)
    shown = dict(zip(table.head, table.rows[0], strict=True))
    assert shown == {
        "node": "n1",
        "status": "online",
        "cores": "8",
        "used": "3",
        "free": "5",
        "memory used": "2 of 16 GiB",
        "NUMA": "2 \N{MULTIPLICATION SIGN} 4 cores",
        "launcher": "process",
        "heartbeat": "3.0 s ago",
    }


def test_what_nobody_knows_of_a_node_is_said() -> None:
    node = msgspec.structs.replace(NODE, numa_topology=None, last_heartbeat=None, draining=True)
    (row,) = node_table([node]).rows
    assert {"N/A", "never", "online, draining"} <= set(row)


@pytest.mark.parametrize(
    ("sizes", "text"),
    [((4,), "1 x 4 cores"), ((1,), "1 x 1 core"), ((2, 4, 4), "2 x 4 + 1 x 2 cores")],
)
def test_numa_nodes_are_summed_up(sizes: tuple[int, ...], text: str) -> None:
    topology = {str(number): NumaNode(tuple(range(size)), 1) for number, size in enumerate(sizes)}
    assert numa_summary(topology).replace("\N{MULTIPLICATION SIGN}", "x") == text
    assert numa_summary({}) == "N/A"


def test_a_node_that_is_refused_or_of_another_version_is_noted() -> None:
    nodes = [
        make_node(hostname="n1", version=__version__),
        make_node(hostname="n2", version="0.0.1"),
        make_node(hostname="n3", refused="upgrade the host", status=NodeStatus.OFFLINE),
    ]
    assert version_notes(nodes) == [
        f"n2 runs version 0.0.1, this is {__version__}",
        "n3 is refused: upgrade the host",
    ]
    assert [row[1] for row in node_table(nodes).rows] == ["online", "online", "offline, refused"]


def test_health_shows_the_use_of_nodes_and_their_parts() -> None:
    health = HealthView(
        hostname="n1",
        status=NodeStatus.ONLINE,
        last_heartbeat=None,
        cpu_percent=12.34,
        memory_percent=50.0,
        memory_used_bytes=1 << 30,
        memory_total_bytes=2 << 30,
        load_average=0.5,
        numa={
            "10": NumaHealth(cores=[1], memory_bytes=1 << 30, use=None),
            "2": NumaHealth(cores=[0, 2, 3], memory_bytes=1 << 30, use=NumaUse(99.0, 1 << 29)),
        },
        launcher="process",
        capabilities=Capabilities(private_pid="no systemd here"),
        version="1",
    )
    use = {
        "2": NumaAccount(total_cores=3, cores_in_use=1, memory_bytes=1 << 30, memory_in_use_bytes=0)
    }
    rows = health_table([health], [make_node(numa_use=use)]).rows
    assert rows[0] == ("n1", "online", "12.3", "1 GiB", "2 GiB", "50.0", "0.50", "3 of 8", "")
    assert rows[1] == ("n1:2", "", "99.0", "512 MiB", "1 GiB", "50.0", "", "1 of 3", "0,2-3")
    assert rows[2][:4] == ("n1:10", "", "N/A", "N/A")
    assert missing_capabilities(health.capabilities) == ["private process ids: no systemd here"]
    bare = msgspec.structs.replace(health, numa={})
    assert health_table([bare]).rows[0][-1] == "NUMA N/A"


def known_of(view: TaskView) -> dict[str, str]:
    return {row[0]: row[1] for row in status_table(view).rows}


def test_a_task_is_one_row_and_one_list() -> None:
    view = make_view(
        "7",
        "failed",
        exit_code=4,
        name="mine",
        arguments=["a b"],
        started_at="2026-01-01T00:00:00+00:00",
        completed_at="2026-01-01T00:00:02+00:00",
        env_vars={"B": "***", "A": "***"},
        required_memory_bytes=1 << 30,
        time_limit_seconds=90.0,
        use_private_network=True,
    )
    (row,) = task_table([view]).rows
    assert row == ("7", "failed", "node1", "1", "2.0 s", "mine", "sleep 'a b'")
    known = known_of(view)
    assert known["exit code"] == "4"
    assert known["environment"] == "A, B"
    assert known["memory limit"] == "1 GiB"
    assert known["time limit"] == "1m 30s"
    assert known["private"] == "network"
    assert "reason" not in known


@pytest.mark.parametrize(
    ("count", "words"), [(0, "no tasks before it"), (1, "1 task before it"), (9, "9 tasks before")]
)
def test_a_pending_task_says_what_it_waits_for_and_behind_how_many(count: int, words: str) -> None:
    view = make_view("7", reason="waits for 4 cores on node1 (2 free)", queue_position=count)
    known = known_of(view)
    assert known["reason"] == "waits for 4 cores on node1 (2 free)"
    assert known["in the queue"].startswith(words)


def test_an_ended_task_shows_what_it_used_and_repeated() -> None:
    view = make_view(
        "7", "completed", retry_of="6", usage=Usage(peak_memory_bytes=3 << 20), queue_position=0
    )
    known = known_of(view)
    assert (known["peak memory"], known["retry of"]) == ("3 MiB", "6")
    assert "in the queue" not in known


def test_a_running_task_shows_its_time_so_far() -> None:
    (row,) = task_table([make_view(status="running", started_at="2026-01-01T00:00:00+00:00")]).rows
    assert row[4].endswith(("h", "m", "d"))


@pytest.mark.parametrize(
    ("status", "changes", "words"),
    [
        ("pending", {"reason": "waits for 1 core on node1"}, "pending (waits for 1 core on node1)"),
        ("running", {}, "running"),
        ("completed", {"exit_code": 0, "reason": "x"}, "completed"),
        ("failed", {"exit_code": 4}, "failed (exit code 4)"),
        ("failed", {"exit_code": -9, "reason": "limit"}, "failed (ended by signal 9, limit)"),
    ],
)
def test_a_state_in_words(status: str, changes: dict[str, object], words: str) -> None:
    assert state_words(make_view("1", status, **changes)) == words
