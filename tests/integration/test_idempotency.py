from __future__ import annotations

import secrets
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from hakuriver import Client
from hakuriver.client.building import command_request

if TYPE_CHECKING:
    from support.harness import Cluster


def _body(**more: object) -> dict[str, object]:
    key = secrets.token_hex(8)
    return {"command": "true", "targets": ["node1"], "idempotency_key": key, **more}


def _ids(cluster: Cluster) -> set[str]:
    return {task["task_id"] for task in cluster.get("/api/tasks?limit=1000")["tasks"]}


def _submit(cluster: Cluster, body: object) -> Any:
    return cluster.post("/api/submit", body)


def test_the_same_key_again_is_answered_alike_and_creates_nothing(cluster: Cluster) -> None:
    body = _body()
    first = _submit(cluster, body)
    ids = _ids(cluster)
    assert [_submit(cluster, body) for _ in range(3)] == [first] * 3
    assert _ids(cluster) == ids
    assert cluster.wait(first["task_ids"][0])["status"] == "completed"
    assert _submit(cluster, body) == first, "after its end as well"


def test_the_answer_is_the_same_with_the_targets_that_failed(cluster: Cluster) -> None:
    body = _body(targets=["node1", "nosuch"])
    first = _submit(cluster, body)
    assert [failed["target"] for failed in first["failed_targets"]] == ["nosuch"]
    assert _submit(cluster, body) == first


def test_the_same_key_with_other_content_is_a_conflict(cluster: Cluster) -> None:
    body = _body()
    _submit(cluster, body)
    ids = _ids(cluster)
    for other in ({"command": "false"}, {"targets": ["node2"]}, {"required_cores": 0}):
        reply = cluster.http("POST", "/api/submit", body={**body, **other})
        assert reply.status == 409, other
        assert "idempotency_key" in str(reply.json()["detail"])
    assert _ids(cluster) == ids


def test_keys_are_each_owners_own(cluster: Cluster) -> None:
    body = _body()
    first = _submit(cluster, body)
    reply = cluster.http("POST", "/api/submit", body=body, token=cluster.second_token)
    assert reply.status == 202
    assert reply.json()["task_ids"] != first["task_ids"]
    again = cluster.http("POST", "/api/submit", body=body, token=cluster.second_token)
    assert again.json() == reply.json()


def test_a_key_may_be_tried_again_after_a_refusal(cluster: Cluster) -> None:
    held = cluster.submit("sleep", "60")
    cluster.wait(held, "running")
    body = _body(queue=False)
    assert cluster.http("POST", "/api/submit", body=body).status != 202
    cluster.post(f"/api/kill/{held}")
    cluster.wait(held, "killed")
    assert cluster.wait(_submit(cluster, body)["task_ids"][0])["status"] == "completed"


def test_many_at_once_with_one_key_make_one_task(cluster: Cluster) -> None:
    ids = _ids(cluster)
    for _ in range(5):
        body = _body()
        with ThreadPoolExecutor(8) as pool:
            replies = list(pool.map(lambda one: _submit(cluster, one), [body] * 8))
        assert all(reply == replies[0] for reply in replies)
        ids |= set(replies[0]["task_ids"])
    assert _ids(cluster) == ids


def test_submissions_without_a_key_are_all_new(cluster: Cluster) -> None:
    body = {"command": "true", "targets": ["node1"]}
    assert _submit(cluster, body)["task_ids"] != _submit(cluster, body)["task_ids"]


def test_a_key_that_is_no_key_is_refused_by_its_name(cluster: Cluster) -> None:
    for key in ("", "x" * 201, 5, ["a"], "a\0b"):
        reply = cluster.http("POST", "/api/submit", body=_body(idempotency_key=key))
        assert reply.status == 422, key
        assert "idempotency_key" in str(reply.json())


def test_a_key_outlives_the_host(fresh_cluster: Cluster) -> None:
    cluster = fresh_cluster
    body = _body(env_vars={"SECRET": "value"}, script="print(1)", command=None)
    del body["command"]
    first = _submit(cluster, body)
    cluster.wait(first["task_ids"][0])
    cluster.kill("host")
    cluster.restart("host")
    # Though the node is not linked yet: it is not asked again.
    assert _submit(cluster, body) == first
    assert len(_ids(cluster)) == 1
    assert cluster.http("POST", "/api/submit", body={**body, "script": "0"}).status == 409


def test_two_submissions_of_the_client_with_one_key_are_one_task(fresh_cluster: Cluster) -> None:
    cluster = fresh_cluster
    client = Client(f"http://127.0.0.1:{cluster.port}", token=cluster.token)
    try:
        client.run(["true"], target="node2").result(timeout=60)
        key = secrets.token_hex(8)
        first = client.run(["true"], target="node2", idempotency_key=key)
        assert first.result(timeout=60).exit_code == 0
        # Its end was told before the second was asked for.
        again = client.run(["true"], target="node2", idempotency_key=key)
        assert again.task_id == first.task_id
        assert again.result(timeout=60).exit_code == 0
        (many,) = client.submit_many(
            [command_request(["true"], target="node2", idempotency_key=key)]
        )
        assert many[0].task_id == first.task_id
        assert many[0].result(timeout=60).exit_code == 0
    finally:
        client.close()
