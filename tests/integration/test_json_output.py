from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from support.harness import rows

if TYPE_CHECKING:
    from support.harness import Cluster


def _json(cluster: Cluster, *args: str) -> Any:
    done = cluster.run_client(*args, "--json", check=0)
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_node_queries_print_json_alone(cluster: Cluster) -> None:
    assert len(rows(_json(cluster, "--list-nodes"), "nodes")) == 2
    assert len(rows(_json(cluster, "--health"), "nodes")) == 2
    assert len(rows(_json(cluster, "--health", "node2"), "nodes")) == 1


def test_task_queries_print_json_alone(cluster: Cluster) -> None:
    done = cluster.run("echo", "ü", "\x1b[31m", name="json")
    task = _json(cluster, "--status", done["task_id"])
    task = task[0] if isinstance(task, list) else task
    assert task["task_id"] == done["task_id"]
    assert task["arguments"] == ["ü", "\x1b[31m"]
    listed = rows(_json(cluster, "--list-tasks", "--limit", "1000"), "tasks")
    assert done["task_id"] in {task["task_id"] for task in listed}


def test_a_query_without_a_result_is_json_too(cluster: Cluster) -> None:
    assert rows(_json(cluster, "--list-tasks", "--node", "nosuch"), "tasks") == []
    assert rows(_json(cluster, "--list-tasks", "--name", "nothing is called so"), "tasks") == []


def test_a_submission_prints_json_alone(cluster: Cluster) -> None:
    done = cluster.run_client("--json", "--target", "node1", "--", "true", check=0)
    reply = json.loads(done.stdout)
    assert len(reply["task_ids"]) == 1
    assert reply["failed_targets"] == []


def test_the_lists_are_bounded_and_filtered(cluster: Cluster) -> None:
    ids = [cluster.submit("true", cores=0, name=f"list{index % 2}") for index in range(4)]
    for task_id in ids:
        cluster.wait(task_id)
    named = rows(_json(cluster, "--list-tasks", "--name", "list0"), "tasks")
    found = [task["task_id"] for task in named]
    assert set(found) >= {ids[0], ids[2]}
    assert not set(found) & {ids[1], ids[3]}
    assert found == sorted(found, key=int, reverse=True)
    assert len(rows(_json(cluster, "--list-tasks", "--limit", "2"), "tasks")) == 2
    batch = cluster.status(ids[0])["batch_id"]
    (only,) = rows(_json(cluster, "--list-tasks", "--batch", batch), "tasks")
    assert only["task_id"] == ids[0]


def test_a_list_of_tasks_is_paged_newest_first(cluster: Cluster) -> None:
    ids = [cluster.submit("true", cores=0, name="paged") for _ in range(5)]
    found: list[str] = []
    before = ""
    for _ in range(4):
        page = cluster.get(f"/api/tasks?name=paged&limit=2{before}")
        assert len(page["tasks"]) <= 2
        found += [task["task_id"] for task in page["tasks"]]
        if page["next_before"] is None:
            break
        before = f"&before={page['next_before']}"
    assert found == sorted(ids, key=int, reverse=True)
