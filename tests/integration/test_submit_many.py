from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from support.harness import Cluster


def _one(*command: str, **more: object) -> dict[str, object]:
    return {"command": command[0], "arguments": command[1:], "targets": ["node1"], **more}


def _many(cluster: Cluster, submissions: list[Any]) -> list[Any]:
    reply = cluster.post("/api/submit-many", {"submissions": submissions}, status=200)
    assert set(reply) == {"answers"}
    assert len(reply["answers"]) == len(submissions)
    for answer in reply["answers"]:
        assert len(answer) == 1, "a reply or an error"
    return list(reply["answers"])


def test_many_submissions_are_answered_in_their_order(cluster: Cluster) -> None:
    answers = _many(cluster, [_one("sh", "-c", f"echo {number}") for number in range(20)])
    ids = [answer["reply"]["task_ids"] for answer in answers]
    assert [len(one) for one in ids] == [1] * 20
    flat = [task_id for one in ids for task_id in one]
    assert sorted(flat, key=int) == flat
    assert len({answer["reply"]["batch_id"] for answer in answers}) == 20
    for number, task_id in enumerate(flat):
        cluster.wait(task_id, "completed")
        assert cluster.text(task_id) == f"{number}\n"


def test_a_mistake_in_one_refuses_that_one_alone(cluster: Cluster) -> None:
    wrong: list[Any] = [
        _one("true", required_cores=-1),
        _one("true", targets=["nosuch"]),
        {"arguments": ["no command"]},
        _one("true", unknown=1),
        "no object",
        None,
        _one("true", targets=["node1", "nosuch"]),
    ]
    answers = _many(cluster, [_one("true"), *wrong, _one("true")])
    for good in (answers[0], answers[-1]):
        assert cluster.wait(good["reply"]["task_ids"][0])["status"] == "completed"
    for index, answer in enumerate(answers[1:-2]):
        error = answer["error"]
        assert 400 <= error["status"] < 500 or error["status"] == 503, answer
        assert error["detail"]
        single = cluster.http("POST", "/api/submit", body=json.dumps(wrong[index]).encode())
        assert single.status == error["status"], "as the same one alone"
        assert single.json()["detail"] == error["detail"]
    assert [failed["target"] for failed in answers[2]["error"]["failed_targets"]] == ["nosuch"]
    partly = answers[-2]["reply"]
    assert len(partly["task_ids"]) == len(partly["failed_targets"]) == 1


def test_keys_hold_among_many_as_they_do_alone(cluster: Cluster) -> None:
    body = _one("true", idempotency_key=f"many-{time.monotonic_ns()}")
    alone = cluster.post("/api/submit", body)
    first, second, other = _many(cluster, [body, body, {**body, "command": "false"}])
    assert first["reply"] == second["reply"] == alone
    assert other["error"]["status"] == 409


def test_the_same_key_twice_among_many_is_one_task(cluster: Cluster) -> None:
    body = _one("true", idempotency_key=f"twice-{time.monotonic_ns()}")
    first, second = _many(cluster, [body, body])
    assert first["reply"] == second["reply"]


def test_a_thousand_are_taken_and_one_more_is_refused(fresh_cluster: Cluster) -> None:
    cluster = fresh_cluster
    # None of them runs: what counts is that all are there.
    cluster.post("/api/nodes/node2/drain", status=200)
    held = cluster.submit("sleep", "60")
    cluster.wait(held, "running")
    reply = cluster.http("POST", "/api/submit-many", body={"submissions": [_one("true")] * 1001})
    assert reply.status == 422
    assert "submissions" in str(reply.json())
    answers = _many(cluster, [_one("true")] * 1000)
    ids = [answer["reply"]["task_ids"][0] for answer in answers]
    assert len(set(ids)) == 1000
    last = cluster.status(ids[-1])
    assert (last["status"], last["queue_position"]) == ("pending", 999)
    # They are in the store: the host may die at once.
    cluster.kill("host")
    cluster.restart("host")
    assert cluster.status(ids[-1])["status"] == "pending"
    assert len(cluster.get("/api/tasks?state=pending&limit=1000")["tasks"]) == 1000
    for name in cluster.nodes:
        cluster.wait_online(name)


@pytest.mark.parametrize(
    "body", [{}, {"submissions": []}, {"submissions": {}}, {"submissions": [], "more": 1}, [], None]
)
def test_a_body_that_is_no_such_request_is_refused(cluster: Cluster, body: object) -> None:
    before = cluster.get("/api/tasks?limit=1")["tasks"]
    reply = cluster.http("POST", "/api/submit-many", body=body)
    assert 400 <= reply.status < 500
    assert reply.json()["detail"]
    assert cluster.get("/api/tasks?limit=1")["tasks"] == before


def test_many_are_the_owners_and_need_a_token(cluster: Cluster) -> None:
    body = {"submissions": [_one("true", name="of alice")]}
    assert cluster.http("POST", "/api/submit-many", body=body, token=None).status == 401
    reply = cluster.http("POST", "/api/submit-many", body=body, token=cluster.second_token)
    (answer,) = reply.json()["answers"]
    (task,) = cluster.get("/api/tasks?name=of+alice")["tasks"]
    assert task["owner"] == "alice"
    assert answer["reply"]["task_ids"] == [task["task_id"]]
    mine = cluster.http("GET", "/api/tasks?mine=1&limit=1000", token=cluster.second_token).json()
    assert {task["owner"] for task in mine["tasks"]} == {"alice"}
    others = cluster.get("/api/tasks?mine=1&limit=1000")["tasks"]
    assert task["task_id"] not in {one["task_id"] for one in others}
