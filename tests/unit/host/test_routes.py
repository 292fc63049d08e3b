"""Many submissions, whole batches, nodes, streams and logs over HTTP: codes, bodies, hostility."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import msgspec
import pytest

from hakuriver.config import Security
from hakuriver.host import exchange, feed, retention
from hakuriver.host.store import changes
from hakuriver.model.auth import runner_token
from hakuriver.model.messages import Discard, Discarded, Kill
from hakuriver.model.tasks import TaskState
from support.host_server import CONFIG, SECRET, TOKEN, Stream, body_of, detail, open_server
from support.host_world import node_info, until

if TYPE_CHECKING:
    from pathlib import Path

    from support.host_server import Server

pytestmark = pytest.mark.asyncio

BOBS = "bobs-token"
BAD_IDS = ["1", "0", "x", "..", "-1", "1.0", "9" * 19, "9" * 400, "%00", "%20", "1%0a", "%d9%a0"]


# -- who may ask --------------------------------------------------------------------------


POSTS = [
    "/submit-many",
    "/stream",
    "/rerun/1",
    "/kill-batch/1",
    "/nodes/n/drain",
    "/nodes/n/resume",
]


@pytest.mark.parametrize("prefix", ["", "/api"])
async def test_without_a_token_nothing_is_done(server: Server, prefix: str) -> None:
    await server.join()
    for path in POSTS:
        for token in (None, "wrong", runner_token(SECRET, "n")):
            response = await server.post(prefix + path, {}, token=token)
            assert response.code == 401, path
    response = await server.ask(f"{prefix}/nodes/n", method="DELETE", token="wrong")
    assert response.code == 401
    assert not server.world.cluster.nodes.get("n").record.draining


async def test_what_a_form_of_another_site_could_send_is_refused(server: Server) -> None:
    await server.join()
    for path in POSTS:
        response = await server.ask(
            f"/api{path}", method="POST", body=b"{}", Content_Type="text/plain"
        )
        assert response.code == 422, path
        assert detail(response)[0]["field"] == "Content-Type"
        response = await server.ask(
            f"/api{path}", method="POST", body=b"", Origin="http://evil.example"
        )
        assert 400 <= response.code < 500, path
    response = await server.ask("/api/nodes/n", method="DELETE", Origin="http://evil.example")
    assert 400 <= response.code < 500
    assert not server.world.cluster.nodes.get("n").record.draining


async def test_the_wrong_method_is_told(server: Server) -> None:
    await server.join()
    for path in POSTS:
        assert (await server.ask(f"/api{path}")).code == 405, path
    for method in ("GET", "POST", "PUT"):
        response = await server.ask("/api/nodes/n", method=method, body=b"")
        assert response.code in (404, 405)
        assert isinstance(detail(response), str)


# -- a task once more ---------------------------------------------------------------------


async def test_a_rerun_answers_202_with_the_new_id(server: Server) -> None:
    await server.join()
    (task_id,) = await server.submitted(targets=["n"], name="x", env_vars={"A": "secret"})
    assert (await server.post(f"/rerun/{task_id}")).code == 409
    await server.world.finish(task_id)
    response = await server.post(f"/rerun/{task_id}")
    (error,) = body_of(response, 422)["detail"]
    assert error["field"] == "env_vars"
    assert "give them again" in error["reason"]
    assert b"secret" not in response.body
    again = await server.post(f"/api/rerun/{task_id}", {"env_vars": {"A": "other"}})
    reply = body_of(again, 202)
    assert set(reply) == {"message", "task_ids", "batch_id", "failed_targets"}
    view = await server.get(f"/status/{reply['task_ids'][0]}")
    assert (view["retry_of"], view["name"], view["owner"]) == (str(task_id), "x", "alice")
    assert view["env_vars"] == {"A": "***"}
    # An empty object says as much as no body.
    (plain,) = await server.submitted()
    await server.world.finish(plain)
    assert (await server.post(f"/rerun/{plain}", {})).code == 202


async def test_a_rerun_that_must_not_wait_is_refused(server: Server) -> None:
    await server.join("n", node_info([0]))
    (task_id,) = await server.submitted(targets=["n"])
    await server.world.finish(task_id)
    wish = {"queue": False, "idempotency_key": "k"}
    first = body_of(await server.post(f"/rerun/{task_id}", wish), 202)
    assert body_of(await server.post(f"/rerun/{task_id}", wish), 202) == first
    refused = await server.post(f"/rerun/{task_id}", {"queue": False})
    body = body_of(refused, 503)
    assert body["failed_targets"][0]["reason"].startswith("no room now: it waits for 1 core")
    assert (await server.post(f"/rerun/{task_id}", {"idempotency_key": "k"})).code == 409
    # The first answer holds whatever has become of the task: here it is gone.
    await server.world.finish(int(first["task_ids"][0]))
    await server.world.store.write(changes.delete_tasks, [task_id])
    assert body_of(await server.post(f"/rerun/{task_id}", wish), 202) == first
    assert (await server.post(f"/rerun/{task_id}")).code == 404


async def test_a_repeated_rerun_needs_no_values_again(server: Server) -> None:
    await server.join("n", node_info([0]))
    first, second = await server.submitted(targets=["n", "n"], env_vars={"A": "secret"})
    await server.world.finish(first)
    # The sibling keeps the values alive; then they are erased, and the answer was lost.
    wish = {"idempotency_key": "k"}
    reply = body_of(await server.post(f"/rerun/{first}", wish), 202)
    await server.world.finish(second)
    assert (await server.post(f"/rerun/{first}", {})).code == 422
    assert body_of(await server.post(f"/rerun/{first}", wish), 202) == reply
    other = await server.post(f"/rerun/{second}", wish)
    assert other.code == 409


@pytest.mark.parametrize("route", ["rerun", "kill-batch"])
async def test_unknown_ids(server: Server, route: str) -> None:
    await server.join()
    (task_id,) = await server.submitted()
    for bad in [*BAD_IDS, str(task_id) if route == "kill-batch" else ""]:
        response = await server.post(f"/api/{route}/{bad}")
        assert response.code == 404, bad
        assert len(detail(response)) < 200
    assert 400 <= (await server.post(f"/api/{route}/%ff")).code < 500


# -- a whole batch ------------------------------------------------------------------------


async def test_a_batch_is_killed_at_once(server: Server) -> None:
    wire = await server.join("n", node_info([0, 1]))
    (stranger,) = await server.submitted(targets=["n"])
    reply = json.loads((await server.submit(command="c", targets=["n"] * 4)).body)
    ids = [int(task_id) for task_id in reply["task_ids"]]
    await server.world.start(ids[0])
    answer = body_of(await server.post(f"/api/kill-batch/{reply['batch_id']}"), 202)
    assert answer["task_ids"] == reply["task_ids"]
    assert answer["message"] == "4 of 4 tasks will end"
    states = [await server.world.status(task_id) for task_id in ids]
    assert states == [TaskState.RUNNING, *[TaskState.KILLED] * 3]
    kills: list[Kill] = []
    while len(kills) < 1:
        message = await wire.hear()
        kills += [message] if isinstance(message, Kill) else []
    assert kills[0].task_id == ids[0]
    assert await server.world.status(stranger) is TaskState.ASSIGNING
    # One of them has not ended yet, and may be asked again.
    again = body_of(await server.post(f"/kill-batch/{reply['batch_id']}"), 202)
    assert again["task_ids"] == [str(ids[0])]
    assert again["message"] == "1 of 4 tasks will end"
    await server.world.finish(ids[0], status=TaskState.KILLED, exit_code=-15)
    response = await server.post(f"/kill-batch/{reply['batch_id']}")
    assert "ended already" in body_of(response, 409)["detail"]


async def test_none_of_a_batch_takes_the_place_of_another(server: Server) -> None:
    await server.join("n", node_info([0]))
    reply = json.loads((await server.submit(command="c", targets=["n"] * 20)).body)
    assert (await server.post(f"/kill-batch/{reply['batch_id']}")).code == 202
    first = int(reply["task_ids"][0])
    await server.world.finish(first, status=TaskState.KILLED, exit_code=-15)
    assert server.world.held() == set()
    for task_id in map(int, reply["task_ids"][1:]):
        record = await server.world.record(task_id)
        assert (record.status, record.placement.cpus) == (TaskState.KILLED, ())


async def test_of_a_large_batch_some_are_ended_at_a_time(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hakuriver.host.api.tasks._TOGETHER", 8)
    kill, asked = server.world.cluster.kill, list[int]()
    most = 0

    async def noted(task_id: int) -> None:
        nonlocal most
        asked.append(task_id)
        most = max(most, sum(one in server.world.cluster.tasks for one in asked))
        await kill(task_id)

    await server.join("n", node_info([0]))
    reply = json.loads((await server.submit(command="c", targets=["n"] * 20)).body)
    monkeypatch.setattr(server.world.cluster, "kill", noted)
    answer = body_of(await server.post(f"/kill-batch/{reply['batch_id']}"), 202)
    assert answer["task_ids"] == reply["task_ids"]
    assert asked == [int(task_id) for task_id in reversed(reply["task_ids"])]
    assert most == 8


async def test_a_lost_task_is_killed_with_its_batch(server: Server) -> None:
    await server.join()
    reply = json.loads((await server.submit(command="c", targets=["n"])).body)
    (task_id,) = map(int, reply["task_ids"])
    await server.world.start(task_id)
    server.wires[0].socket.close()
    await until(lambda: not server.world.cluster.nodes.online_link("n"))
    await exchange.sweep(server.world.cluster, -1)
    assert await server.world.status(task_id) is TaskState.LOST
    answer = body_of(await server.post(f"/kill-batch/{reply['batch_id']}"), 202)
    assert answer["task_ids"] == [str(task_id)]
    assert (await server.world.record(task_id)).kill_requested


# -- nodes --------------------------------------------------------------------------------


async def test_a_node_is_drained_resumed_and_forgotten(server: Server) -> None:
    await server.join("n.1-a_b", node_info([0, 1], memory=100))
    name = "n.1-a_b"
    for what, draining in (("drain", True), ("drain", True), ("resume", False)):
        view = body_of(await server.post(f"/api/nodes/{name}/{what}"), 200)
        assert (view["hostname"], view["draining"]) == (name, draining)
        (listed,) = (await server.get("/nodes"))["nodes"]
        # The heartbeat of its exchange may come in between.
        assert listed | {"last_heartbeat": None} == view | {"last_heartbeat": None}
        refused = await server.submit(command="c", targets=[name])
        assert refused.code == (503 if draining else 202)
    conflict = await server.ask(f"/nodes/{name}", method="DELETE")
    assert "online" in body_of(conflict, 409)["detail"]
    server.wires[0].socket.close()
    await until(lambda: not server.world.cluster.nodes.online_link(name))
    gone = await server.ask(f"/nodes/{name}", method="DELETE")
    assert name in body_of(gone, 200)["message"]
    assert (await server.get("/nodes"))["nodes"] == []
    assert (await server.get("/tasks?state=lost"))["tasks"][0]["assigned_node"] == name
    assert (await server.ask(f"/nodes/{name}", method="DELETE")).code == 404


@pytest.mark.parametrize(
    "name", ["gone", "..", "%2e%2e", "n%2f", "%00", "n%0a", "x" * 400, "%F0%9F%92%A9", "n:0", "%20"]
)
async def test_unknown_nodes(server: Server, name: str) -> None:
    await server.join()
    for path in (f"/nodes/{name}/drain", f"/api/nodes/{name}/resume"):
        assert (await server.post(path)).code == 404
    response = await server.ask(f"/nodes/{name}", method="DELETE")
    assert response.code == 404
    assert isinstance(detail(response), str)
    assert len((await server.get("/nodes"))["nodes"]) == 1


async def test_a_node_shows_memory_given_out(server: Server) -> None:
    info = node_info(range(4), numa={"0": [0, 1], "1": [2, 3]}, memory=1000)
    await server.join("n", info)
    await server.submitted(targets=["n:1"], required_memory_bytes=300, required_cores=2)
    (node,) = (await server.get("/nodes"))["nodes"]
    assert (node["memory_total_bytes"], node["memory_in_use_bytes"]) == (1000, 300)
    assert node["numa_use"]["1"] == {
        "total_cores": 2,
        "cores_in_use": 2,
        "memory_bytes": 1 << 30,
        "memory_in_use_bytes": 300,
    }
    waiting = await server.submitted(targets=["n"], required_memory_bytes=800)
    task = await server.get(f"/status/{waiting[0]}")
    assert task["reason"] == "waits for 800 B of memory on n (700 B free)"
    assert task["queue_position"] == 0


async def test_a_token_is_checked_before_a_runner_joins(server: Server) -> None:
    path = "/api/runner/check?name="
    reply = await server.ask(f"{path}n", token=runner_token(SECRET, "n"))
    assert body_of(reply, 200)["cluster_id"] == "cluster"
    assert set(json.loads(reply.body)) == {"node", "cluster_id", "version"}
    for name, token in (
        ("n", TOKEN),
        ("n", runner_token(SECRET, "m")),
        ("n", "\xe9"),
        ("", runner_token(SECRET, "")),
        ("n%0a", runner_token(SECRET, "n")),
    ):
        response = await server.ask(path + name, token=token)
        assert response.code == 401, name
    assert server.world.cluster.nodes.views() == []


# -- whose tasks --------------------------------------------------------------------------


async def test_mine_are_those_of_the_tokens_name(tmp_path: Path) -> None:
    security = Security(runner_secret=SECRET, tokens={"alice": TOKEN, "bob": BOBS})
    config = msgspec.structs.replace(CONFIG, security=security)
    async with open_server(tmp_path / "host.db", config) as server:
        await server.join()
        (hers,) = await server.submitted()
        body = await server.post("/submit", {"command": "c", "idempotency_key": "k"}, token=BOBS)
        (his,) = map(int, json.loads(body.body)["task_ids"])
        for token, mine in ((TOKEN, hers), (BOBS, his)):
            for query in ("mine=1", "mine=1&state=assigning", "mine=true&limit=1"):
                response = await server.ask(f"/api/tasks?{query}", token=token)
                found = json.loads(response.body)["tasks"]
                assert [task["task_id"] for task in found] == [str(mine)]
        for query in ("mine=0", "mine=", "unknown=1"):
            assert len((await server.get(f"/tasks?{query}"))["tasks"]) == 2
        assert len((await server.get("/tasks?mine=1&owner=alice"))["tasks"]) == 1
        response = await server.ask("/tasks?mine=1&owner=bob")
        assert detail(response)[0]["field"] == "mine"


# -- logs that retention has taken --------------------------------------------------------


async def test_logs_that_were_removed_are_told_as_gone(server: Server) -> None:
    wire = await server.join()
    (task_id,) = await server.submitted()
    await server.world.start(task_id)
    await server.world.finish(task_id)
    later = (await server.world.record(task_id)).origin.submitted_at + 31 * 86400
    await retention.sweep(server.world.cluster, CONFIG.retention, now=later)
    message = await wire.hear()
    while not isinstance(message, Discard):
        message = await wire.hear()
    assert message.task_ids == (task_id,)
    await wire.say(Discarded(task_ids=message.task_ids))
    async with asyncio.timeout(30):
        while not (await server.world.record(task_id)).logs_removed:
            pass
    for query in ("", "?tail=5", "?follow=1", "?follow=1&offset=7", "?offset=3"):
        for stream in ("stdout", "stderr"):
            response = await server.ask(f"/api/task/{task_id}/{stream}{query}")
            assert response.code == 404, query
            assert "30d" in detail(response)
    response = await server.ask(f"/task/{task_id}/stdout", Range="bytes=0-4")
    assert response.code == 404
    # The task itself is still told of.
    assert (await server.get(f"/status/{task_id}"))["status"] == "completed"


# -- one stream for all -------------------------------------------------------------------


async def test_a_stream_begins_with_its_rev_and_goes_on_with_events(server: Server) -> None:
    await server.join()
    (task_id,) = await server.submitted()
    rev = server.world.cluster.feed.rev
    body = json.dumps({"logs": [{"id": "5"}, {"id": str(task_id), "stream": "stderr"}]}).encode()
    stream = await Stream.open(server, "/api/stream", body=body)
    assert b"application/x-ndjson" in stream.head
    assert await stream.json() == {"event": {"rev": rev}}
    error = await stream.json()
    assert (error["log"]["id"], error["log"]["stream"]) == ("5", "stdout")
    assert "no task" in error["log"]["error"]
    await server.world.start(task_id)
    event = await stream.json()
    assert event["event"]["task"]["status"] == "running"
    await stream.leave()
    await until(lambda: server.services.subscriptions._open == {})


@pytest.mark.parametrize("body", [b"", b"{}", b'{"after": null, "logs": []}'])
async def test_a_quiet_stream_shows_that_it_lives(
    server: Server, monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    monkeypatch.setattr(feed, "KEEP_ALIVE_SECONDS", 0.02)
    stream = await Stream.open(server, "/stream", body=body)
    rev = server.world.cluster.feed.rev
    assert [await stream.json() for _ in range(3)] == [{"event": {"rev": rev}}] * 3
    await stream.leave()


async def test_a_stream_takes_up_after_a_rev(server: Server) -> None:
    await server.join()
    await server.world.settle()
    before = server.world.cluster.feed.rev
    (task_id,) = await server.submitted()
    stream = await Stream.open(server, "/stream", body=json.dumps({"after": before}).encode())
    assert await stream.json() == {"event": {"rev": before}}
    assert (await stream.json())["event"]["task"]["task_id"] == str(task_id)
    await stream.leave()
    stream = await Stream.open(server, "/stream", body=b'{"after": 4000}')
    assert await stream.json() == {"event": {"rev": 4000}}
    assert (await stream.json())["event"]["reset"] is True
    await stream.leave()
