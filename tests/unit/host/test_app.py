from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import msgspec
import pytest

from hakuriver.host import feed
from hakuriver.model.messages import Kill, Launch
from hakuriver.model.submission import MAX_REQUEST
from hakuriver.model.views import TaskList
from support.host_server import CONFIG, Stream, detail, open_server
from support.host_world import known, node_info, until

if TYPE_CHECKING:
    from pathlib import Path

    from support.host_server import Server

pytestmark = pytest.mark.asyncio

PATHS = ["/nodes", "/tasks", "/health", "/events", "/status/1", "/task/1/stdout"]


# -- who may ask --------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "/api"])
async def test_without_a_token_nothing_is_told(server: Server, prefix: str) -> None:
    for token in (None, "", "wrong"):
        for path in PATHS:
            response = await server.ask(prefix + path, token=token)
            assert response.code == 401
            assert "Authorization: Bearer" in detail(response)
    response = await server.ask(f"{prefix}/submit", method="POST", body=b"{}", token="wrong")
    assert response.code == 401


@pytest.mark.parametrize("path", ["/healthz", "/api/healthz"])
async def test_liveness_needs_no_token(server: Server, path: str) -> None:
    response = await server.ask(path, token=None)
    assert response.code == 200
    assert json.loads(response.body)["status"] == "ok"


async def test_a_request_for_another_name_is_refused(server: Server) -> None:
    for path in ("/api/nodes", "/healthz"):
        response = await server.ask(path, Host="evil.example:8000")
        assert response.code == 422
        assert detail(response)[0]["field"] == "Host"


# -- what is not there --------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/api/nothing",
        "/apinodes",
        "/api/api/nodes",
        "/api/status",
        "/api/status/",
        "/api/status/1/2",
        "/api/status/../nodes",
        "/api/task/1/other",
        "/nodes/",
    ],
)
async def test_unknown_paths(server: Server, path: str) -> None:
    response = await server.ask(path)
    assert response.code == 404
    assert isinstance(detail(response), str)
    assert (await server.ask(path, method="POST", body=b"x")).code == 404


@pytest.mark.parametrize(
    "task_id",
    ["1", "0", "x", "..", "%2e%2e%2fx", "-1", "1.0", "9" * 19, "9" * 400, "%00", "%20", "1%0a"],
)
async def test_unknown_ids(server: Server, task_id: str) -> None:
    for path in (f"/api/status/{task_id}", f"/api/task/{task_id}/stdout"):
        response = await server.ask(path)
        assert response.code == 404, path
        assert len(detail(response)) < 200
    response = await server.ask(f"/api/kill/{task_id}", method="POST", body=b"")
    assert response.code == 404


async def test_an_id_that_is_no_text_is_the_askers_mistake(server: Server) -> None:
    response = await server.ask("/api/status/%ff")
    assert 400 <= response.code < 500
    assert detail(response)


async def test_the_wrong_method_is_told(server: Server) -> None:
    for method, path in (("GET", "/api/submit"), ("DELETE", "/api/tasks"), ("PUT", "/api/nodes")):
        response = await server.ask(path, method=method)
        assert response.code == 405
        assert isinstance(detail(response), str)


# -- submitting ---------------------------------------------------------------------------


async def test_a_submission_answers_202_with_ids_as_text(server: Server) -> None:
    await server.join()
    reply = json.loads((await server.submit(command="c", targets=["n", "gone"])).body)
    assert set(reply) == {"message", "task_ids", "batch_id", "failed_targets"}
    assert isinstance(reply["task_ids"][0], str)
    assert reply["failed_targets"][0]["target"] == "gone"
    task = await server.get(f"/status/{reply['task_ids'][0]}")
    assert task["batch_id"] == reply["batch_id"]
    assert task["owner"] == "alice"


async def test_when_nothing_was_created_every_reason_is_told(server: Server) -> None:
    response = await server.submit(command="c", targets=["gone", "n:0"])
    assert 400 <= response.code < 600
    body = json.loads(response.body)
    assert [failed["target"] for failed in body["failed_targets"]] == ["gone", "n:0"]
    assert "gone" in body["detail"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", "body"),
        (b"{", "body"),
        (b"[]", "body"),
        (b'{"command": "\xff"}', "body"),
        (b'{"command": "a", "required_cores": -1}', "required_cores"),
        (b'{"command": "a", "arguments": ["b", 1]}', "arguments[1]"),
        (b'{"command": "a", "env_vars": {"1": "x"}}', "env_vars"),
        (b'{"command": "a", "targets": []}', "targets"),
        (b'{"command": "a", "shell": true}', "body"),
        (b"{}", "command"),
        (b'{"a":' * 100_000, "body"),
    ],
)
async def test_a_bad_field_is_told_with_its_reason(server: Server, body: bytes, field: str) -> None:
    response = await server.ask(
        "/api/submit", method="POST", body=body, Content_Type="application/json"
    )
    assert response.code == 422
    (error,) = detail(response)
    assert error["field"] == field
    assert error["reason"]


@pytest.mark.parametrize(
    "kind", ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"]
)
async def test_what_a_form_of_another_site_could_send_is_refused(server: Server, kind: str) -> None:
    response = await server.ask(
        "/api/submit", method="POST", body=b'{"command": "c"}', Content_Type=kind
    )
    assert response.code in (400, 422)
    assert detail(response)
    assert (await server.get("/tasks"))["tasks"] == []


async def test_the_content_type_may_have_parameters(server: Server) -> None:
    await server.join()
    response = await server.ask(
        "/api/submit",
        method="POST",
        body=b'{"command": "c"}',
        Content_Type="Application/JSON; charset=utf-8",
    )
    assert response.code == 202


async def test_a_body_over_the_limit_is_refused_by_name(server: Server) -> None:
    response = await server.ask(
        "/api/submit",
        method="POST",
        body=b" " * (MAX_REQUEST + 1),
        Content_Type="application/json",
    )
    assert response.code == 422
    (error,) = detail(response)
    assert (error["field"], str(MAX_REQUEST) in error["reason"]) == ("body", True)


async def test_a_fault_of_the_host_tells_the_log_alone(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def faulty() -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(server.world.cluster.nodes, "views", faulty)
    response = await server.ask("/api/nodes?token=misplaced")
    assert response.code == 500
    assert "secret" not in detail(response)
    assert "secret detail" in caplog.text
    assert "GET /api/nodes" in caplog.text
    assert "misplaced" not in caplog.text


async def test_what_is_refused_is_not_quoted_in_the_log(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    form = {"Content_Type": "application/x-www-form-urlencoded", "Content_Encoding": "misplaced"}
    response = await server.ask("/api/submit?token=misplaced", method="POST", body=b"a=b", **form)
    assert 400 <= response.code < 500
    assert (await server.ask("/api/tasks?limit=%ff&token=misplaced")).code == 422
    assert "misplaced" not in caplog.text


# -- tasks --------------------------------------------------------------------------------


async def test_lists_are_paged_newest_first(server: Server) -> None:
    await server.join()
    ids = [str(task_id) for task_id in await server.submitted(targets=["n"] * 5, name="x")]
    first = await server.get("/api/tasks?limit=2")
    assert [task["task_id"] for task in first["tasks"]] == ids[:2:-1]
    assert first["next_before"] == ids[3]
    rest = await server.get(f"/api/tasks?limit=3&before={first['next_before']}&name=x")
    assert [task["task_id"] for task in rest["tasks"]] == ids[2::-1]
    assert rest["next_before"] is None
    assert (await server.get("/tasks?state=running"))["tasks"] == []
    assert len((await server.get("/tasks?state=assigning&node=n&owner=alice"))["tasks"]) == 2


async def test_a_page_is_byte_for_byte_a_list_of_views(server: Server) -> None:
    await server.join()
    ids = await server.submitted(targets=["n"] * 3, name='é"', arguments=["a\n"])
    views = [await server.world.view(task_id) for task_id in reversed(ids)]
    for limit, more in ((3, None), (2, str(ids[1]))):
        response = await server.ask(f"/api/tasks?limit={limit}")
        assert response.body == msgspec.json.encode(TaskList(views[:limit], more))
    response = await server.ask("/api/tasks?name=nosuch")
    assert response.body == msgspec.json.encode(TaskList([], None))


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("state=no", 422),
        ("limit=0", 422),
        ("limit=-1", 422),
        ("limit=99999", 422),
        ("limit=x", 422),
        ("limit=1e3", 422),
        ("before=x", 422),
        ("batch=-1", 422),
        ("name=%ff", 422),
        ("state=null", 422),
        ("mine=maybe", 422),
        ("limit=1.0", 422),
        ("limit=%2B1", 422),
        ("node=" + "n" * 254, 422),
        ("owner=" + "o" * 201, 422),
        ("name=null", 200),
        ("mine=TRUE", 200),
        ("state=", 200),
        ("unknown=1", 200),
    ],
)
async def test_bad_filters(server: Server, query: str, code: int) -> None:
    response = await server.ask(f"/api/tasks?{query}")
    assert response.code == code
    if code == 422:
        (error,) = detail(response)
        assert error["field"] == query.partition("=")[0]
        assert len(error["reason"]) < 300


async def test_a_bad_argument_is_told_with_what_would_do(server: Server) -> None:
    for query, words in (
        ("state=asleep", "pending, assigning, running"),
        ("limit=5000", "1 to 1000"),
        ("before=x", "in digits"),
    ):
        (error,) = detail(await server.ask(f"/api/tasks?{query}"))
        assert words in error["reason"]
        assert query.partition("=")[2] in error["reason"]


async def test_arguments_without_a_byte_have_a_limit_too(server: Server) -> None:
    await server.join()
    for fields in ({"arguments": [""] * 70_000}, {"command": None, "interpreter": [""] * 70_000}):
        response = await server.submit(**{"command": "c", "script": None, **fields})
        assert response.code == 422
        assert "65536" in detail(response)[0]["reason"]
    assert server.world.cluster.tasks == {}


async def test_a_kill_is_accepted_once(server: Server) -> None:
    wire = await server.join("n", node_info([0]))
    running, queued = await server.submitted(targets=["n", "n"])
    assert (await wire.hear_a(Launch)).task_id == running
    for task_id, code in ((running, 202), (queued, 202), (queued, 409)):
        response = await server.ask(f"/api/kill/{task_id}", method="POST", body=b"")
        assert response.code == code
    assert (await wire.hear_a(Kill)).task_id == running


async def test_nodes_and_health(server: Server) -> None:
    await server.join("n", node_info(range(4), numa={"0": [0, 1], "1": [2, 3]}))
    await server.submitted(targets=["n:1"])
    (node,) = (await server.get("/nodes"))["nodes"]
    assert (node["hostname"], node["status"], node["url"]) == ("n", "online", None)
    assert (node["total_cores"], node["cores_in_use"], node["available_cores"]) == (4, 1, 3)
    assert node["cpus_in_use"] == [2]
    assert node["numa_topology"]["1"]["cores"] == [2, 3]
    (health,) = (await server.get("/health?hostname=n"))["nodes"]
    assert health["cpu_percent"] == 5.0
    assert health["numa"]["0"] == {"cores": [0, 1], "memory_bytes": 1 << 30, "use": None}
    response = await server.ask("/api/health?hostname=gone")
    assert response.code == 404
    assert "gone" in detail(response)


# -- streams ------------------------------------------------------------------------------


async def test_events_come_as_they_happen(server: Server) -> None:
    stream = await Stream.open(server, "/api/events")
    assert set(await stream.json()) == {"rev"}
    await server.join()
    assert (await stream.json())["node"]["status"] == "online"
    (task_id,) = await server.submitted()
    event = await stream.json()
    assert (event["task"]["task_id"], event["task"]["status"]) == (str(task_id), "assigning")
    await stream.leave()


async def test_a_quiet_stream_shows_that_it_lives(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "KEEP_ALIVE_SECONDS", 0.05)
    stream = await Stream.open(server, "/api/events")
    lines = [await stream.json() for _ in range(3)]
    assert [set(line) for line in lines] == [{"rev"}] * 3
    await stream.leave()


async def test_a_stream_that_its_client_has_left_is_gone(server: Server) -> None:
    before = asyncio.all_tasks()
    streams = [await Stream.open(server, "/api/events") for _ in range(5)]
    for stream in streams:
        await stream.json()
    assert len(asyncio.all_tasks()) > len(before)
    for stream in streams:
        await stream.leave()
    await until(lambda: len(asyncio.all_tasks()) <= len(before), what=str(asyncio.all_tasks()))


@pytest.mark.parametrize("query", ["after=-1", "after=x", "after=1.5", f"after={1 << 70}"])
async def test_a_rev_that_is_no_number_is_refused(server: Server, query: str) -> None:
    response = await server.ask(f"/api/events?{query}")
    assert response.code == 422
    assert detail(response)[0]["field"] == "after"


async def test_a_rev_of_another_database_is_a_reset(server: Server) -> None:
    rev = server.world.cluster.feed.rev
    # A larger one is of another database, and so is a smaller one than this ever gave.
    for after in (rev + 1000, 1):
        stream = await Stream.open(server, f"/api/events?after={after}")
        assert await stream.json() == {"rev": after}
        assert await stream.json() == {"rev": rev, "reset": True}
        await stream.leave()


# -- everybody's host ---------------------------------------------------------------------


async def test_a_host_without_tokens_serves_everybody_here(tmp_path: Path) -> None:
    security = msgspec.structs.replace(CONFIG.security, auth="none", tokens={})
    config = msgspec.structs.replace(CONFIG, security=security)
    async with open_server(tmp_path / "host.db", config) as server:
        await server.join()
        response = await server.ask("/api/nodes", token=None)
        assert response.code == 200
        (task_id,) = await server.submitted()
        assert (await server.get(f"/status/{task_id}"))["owner"] == "default"


async def test_values_of_the_environment_are_shown_to_nobody(server: Server) -> None:
    began = server.world.store.rev
    await server.join()
    (task_id,) = await server.submitted(env_vars={"TOKEN": "hunter2"})
    stream = await Stream.open(server, f"/events?after={began}")
    texts = [json.dumps([await stream.json() for _ in range(3)])]
    await stream.leave()
    paths = (f"/status/{task_id}", "/tasks")
    texts += [(await server.ask(path)).body.decode() for path in paths]
    for text in texts:
        assert "TOKEN" in text
        assert "hunter2" not in text
    assert known(await server.world.record(task_id)).spec.env_vars == {"TOKEN": "hunter2"}
