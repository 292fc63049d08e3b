from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from support.harness import rows
from support.million import TRACING_HOST, multiply, plan, statements, work
from support.processes import resident_bytes, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.harness import Cluster

MIB = 1 << 20
COUNT = 1_000_000
#: A page of each kind that a list may be asked for.
QUERIES = {
    "all": "",
    "by state": "state=failed",
    "by a state that none is in": "state=lost",
    "by node": "node=node7",
    "by a node that has none": "node=nosuch",
    "by name": "name=rare",
    "by owner": "owner=alice",
    "mine": "mine=1",
    "by batch": "batch={batch}",
    "before an id": "before={middle}",
    "by state before an id": "state=killed&before={middle}",
    "by node before an id": "node=node7&before={middle}",
    "by node and state": "node=node1&state=failed",
    "by the busiest node and a state that none is in": "node=node1&state=lost",
    "mine in a state that none is in": "mine=1&state=lost",
    "mine of a name that none has": "mine=1&name=nosuch",
    "by name and owner": "name=rare&owner=alice",
    "by a busy node and a state of which it has none": "node=busy&state=failed",
    "by a busy owner and a state of which it has none": "owner=busy&state=failed",
    "by a busy name and a state of which it has none": "name=busy&state=failed",
    "by a busy node and an owner of which it has none": "node=busy&owner=default",
    "by a busy node, owner and name and a state of which they have none": (
        "node=busy&owner=busy&name=busy&state=failed"
    ),
    "by a busy node and owner and a state that none is in": "node=busy&owner=busy&state=lost",
    "a long page": "limit=1000&node=node7",
}
pytestmark = pytest.mark.timeout(400)


class Large:
    """A host that answers from a million tasks and writes down what it asks its database."""

    def __init__(self, cluster: Cluster, trace: Path) -> None:
        self.cluster = cluster
        self.trace = trace
        (self.file,) = cluster.state_dir("host").rglob("*.db")
        (newest,) = cluster.get("/api/tasks?limit=1")["tasks"]
        self.batch = newest["batch_id"]
        self.middle = int(newest["task_id"]) - COUNT // 2

    def page(self, query: str) -> Any:
        filters = query.format(batch=self.batch, middle=self.middle)
        return self.cluster.get(f"/api/tasks?{filters}")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Large]:
    from support.harness import Cluster  # noqa: PLC0415 - the name is for types above

    cluster = Cluster(tmp_path_factory.mktemp("large"), nodes={"node1": "0"})
    try:
        cluster.start()
        cluster.run("echo", "the first of many", name="rare")
        cluster.runners["node1"].stop()
        cluster.host.stop()
        (file,) = cluster.state_dir("host").rglob("*.db")
        multiply(file, COUNT)
        trace = cluster.root / "trace"
        with cluster.host.log.open("ab") as log:
            cluster.host.process = subprocess.Popen(
                [sys.executable, "-c", TRACING_HOST, str(trace), *cluster.host.argv[1:]],
                env=dict(cluster.host.env),
                cwd=cluster.root,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
            )
        wait_until(cluster.is_healthy, timeout=120, what="the host of a million tasks")
        yield Large(cluster, trace)
    finally:
        cluster.stop()
    cluster.check_logs()


@pytest.mark.parametrize("kind", QUERIES)
def test_a_page_of_a_million_tasks_is_read_by_an_index_without_sorting(
    large: Large, kind: str
) -> None:
    start = large.trace.stat().st_size
    page = large.page(QUERIES[kind])
    assert isinstance(page["tasks"], list)
    asked = statements(large.trace, start)
    assert asked, "the host has asked nothing of its tasks"
    for sql, parameters in asked:
        steps = plan(large.file, sql, parameters)
        shown = f"{sql} {parameters}: {steps}"
        assert not [step for step in steps if "TEMP B-TREE" in step], shown
        if kind != "all":
            assert not [step for step in steps if step.startswith("SCAN") and "task" in step], shown


@pytest.mark.parametrize("kind", QUERIES)
def test_a_page_of_a_million_tasks_is_found_without_a_search_through_all(
    large: Large, kind: str
) -> None:
    start = large.trace.stat().st_size
    large.page(QUERIES[kind])
    steps = sum(work(large.file, *asked) for asked in statements(large.trace, start))
    # A page of a thousand takes some ten thousand; to look at each of a million, millions.
    assert steps < 300, f"{steps} thousand steps"


@pytest.mark.parametrize("kind", QUERIES)
def test_a_page_of_a_million_tasks_is_the_right_one(
    large: Large, kind: str, record_property: Any
) -> None:
    query = QUERIES[kind]
    durations = []
    page: Any = None
    for _ in range(3):
        started = time.perf_counter()
        page = large.page(query)
        durations.append(1000 * (time.perf_counter() - started))
    median = statistics.median(durations)
    record_property("milliseconds", median)
    print(f"\na page {kind}: {median:.1f} ms")  # noqa: T201 - a figure to read, not to judge
    tasks = page["tasks"]
    assert bool(tasks) is ("none" not in kind)
    assert len(tasks) <= (1000 if "limit=1000" in query else 50)
    ids = [int(task["task_id"]) for task in tasks]
    assert ids == sorted(set(ids), reverse=True)
    for part in query.format(batch=large.batch, middle=large.middle).split("&"):
        _check_filter(tasks, part)


def _check_filter(tasks: list[Any], part: str) -> None:
    key, _, value = part.partition("=")
    field = {"state": "status", "node": "assigned_node", "owner": "owner"}.get(key)
    if field:
        assert {task[field] for task in tasks} <= {value}
    elif key == "mine":
        assert {task["owner"] for task in tasks} <= {"default"}
    elif key == "name" and tasks:
        # The newest is the one that really ran; of the copies every thousandth has its name.
        assert len({int(task["task_id"]) % 1000 for task in tasks[1:]}) == 1
    elif key == "batch":
        assert {task["batch_id"] for task in tasks} == {value}
    elif key == "before":
        assert all(int(task["task_id"]) < int(value) for task in tasks)


def test_the_pages_of_a_million_tasks_follow_each_other_without_gaps(large: Large) -> None:
    found: list[int] = []
    before = ""
    for _ in range(5):
        page = large.page(f"limit=1000{before}")
        found += [int(task["task_id"]) for task in page["tasks"]]
        before = f"&before={page['next_before']}"
    assert found[1:] == list(range(found[1], found[1] - 4999, -1))


def test_the_command_line_shows_a_page_of_a_million_tasks(large: Large) -> None:
    command = ("--list-tasks", "--node", "node1", "--state", "failed", "--limit", "20")
    done = large.cluster.run_client(*command, "--json", check=0)
    assert len(rows(json.loads(done.stdout), "tasks")) == 20
    table = large.cluster.run_client(*command, check=0).stdout
    assert len(table.splitlines()) < 30


def test_a_million_tasks_cost_the_host_no_memory(large: Large) -> None:
    for query in QUERIES.values():
        large.page(query)
    host = large.cluster.host
    assert resident_bytes(host.pid) < 150 * MIB


def test_tasks_run_beside_a_million_ended_ones(large: Large) -> None:
    large.cluster.start_runner("node1")
    large.cluster.wait_online("node1")
    task = large.cluster.run("echo", "one more")
    assert task["status"] == "completed"
    (newest,) = large.page("limit=1")["tasks"]
    assert newest["task_id"] == task["task_id"]
