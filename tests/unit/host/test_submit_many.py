"""Many submissions in one request, and what hostile clients send instead of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from hakuriver.host.api import submit, tasks
from hakuriver.model.submission import MAX_MANY, MAX_REQUEST
from support.host_server import body_of, detail
from support.host_world import Commits, node_info

if TYPE_CHECKING:
    from support.host_server import Server

pytestmark = pytest.mark.asyncio


async def many(server: Server, *submissions: Any) -> list[Any]:
    reply = body_of(await server.post("/api/submit-many", {"submissions": submissions}), 200)
    assert set(reply) == {"answers"}
    return list(reply["answers"])


# -- many submissions ---------------------------------------------------------------------


async def test_each_submission_is_answered_in_its_place(server: Server) -> None:
    await server.join("n", node_info([0]))
    answers = await many(
        server,
        {"command": "a", "targets": ["n"]},
        {"command": "b", "targets": ["gone"]},
        {"command": ""},
        {"command": "c", "required_cores": "two"},
        {"command": "d", "targets": ["n", "gone"], "name": "x"},
        {"command": "e", "queue": False},
        5,
    )
    kinds = [set(answer) for answer in answers]
    reply, error = {"reply"}, {"error"}
    assert kinds == [reply, error, error, error, reply, error, error]
    assert [answer["error"]["status"] for answer in answers if "error" in answer] == [
        503,
        422,
        422,
        503,
        422,
    ]
    gone = answers[1]["error"]
    assert gone["failed_targets"][0]["target"] == "gone"
    assert "gone" in gone["detail"]
    fields = [answers[place]["error"]["detail"][0]["field"] for place in (2, 3, 6)]
    assert fields == ["command", "required_cores", "body"]
    assert "no room now" in answers[5]["error"]["detail"]
    ids = [int(answers[place]["reply"]["task_ids"][0]) for place in (0, 4)]
    assert ids == sorted(ids)
    first, second = [await server.world.record(task_id) for task_id in ids]
    assert (first.spec.command, second.spec.name) == ("a", "x")
    assert first.placement.batch_id != second.placement.batch_id
    assert first.origin.owner == "alice"
    assert [failed["target"] for failed in answers[4]["reply"]["failed_targets"]] == ["gone"]
    assert len(server.world.cluster.tasks) == 2


async def test_each_is_answered_as_it_would_be_alone(server: Server) -> None:
    await server.join("n", node_info([0]))
    wishes: list[Any] = [
        {"command": "a", "targets": ["gone", "n:4"]},
        {"command": "a", "targets": []},
        {"command": "a", "shell": True},
        {"command": "a", "required_cores": 7},
        {},
        [],
        "x",
        None,
    ]
    for wish in wishes:
        alone = await server.post("/submit", json.dumps(wish).encode())
        error = (await many(server, wish))[0]["error"]
        assert error.pop("status") == alone.code
        assert error == json.loads(alone.body)


async def test_a_thousand_are_one_transaction(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    await server.join("n", node_info([0]))
    await server.world.settle()
    commits = Commits(server.world.store, monkeypatch)
    answers = await many(server, *[{"command": "true", "targets": ["n"]}] * MAX_MANY)
    assert commits.count == 1
    ids = [int(answer["reply"]["task_ids"][0]) for answer in answers]
    assert ids == sorted(set(ids))
    assert list(server.world.cluster.tasks) == ids
    assert server.world.cluster.scheduler.position(ids[-1]) == MAX_MANY - 2


async def test_together_they_make_so_many_tasks_at_most(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit, "MAX_TOGETHER", 5)
    await server.join("n", node_info(range(8)))
    wishes = [{"command": "a", "targets": ["n"] * 4}, {"command": "b"}, {"command": "\0"}]
    response = await server.post("/submit-many", {"submissions": wishes})
    assert response.code == 422
    assert "6 tasks" in detail(response)[0]["reason"]
    assert server.world.cluster.tasks == {}
    assert [set(answer) for answer in await many(server, *wishes[:2])] == [{"reply"}] * 2


async def test_long_command_lines_make_short_pages(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "_PAGE_BYTES", 10_000)
    await server.join("n", node_info([0]))
    ids = await server.submitted(targets=["n"] * 7, arguments=["x" * 4000])
    seen: list[str] = []
    before = ""
    while True:
        page = await server.get(f"/tasks?limit=100{before}")
        assert 1 <= len(page["tasks"]) <= 3
        seen += [task["task_id"] for task in page["tasks"]]
        if page["next_before"] is None:
            break
        before = f"&before={page['next_before']}"
    assert seen == [str(task_id) for task_id in reversed(ids)]


async def test_a_store_that_fails_is_told_to_each(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    await server.join()
    await server.world.settle()
    commits = Commits(server.world.store, monkeypatch)
    commits.failing = 2
    answers = await many(server, {"command": "a"}, {"command": "", "name": "b"}, {"command": "c"})
    assert [answer["error"]["status"] for answer in answers] == [503, 422, 503]
    assert server.world.cluster.tasks == {}
    assert server.world.held() == set()


async def test_keys_hold_among_many(server: Server) -> None:
    await server.join("n", node_info(range(8)))
    one = {"command": "a", "idempotency_key": "k"}
    other = {"command": "b", "idempotency_key": "k"}
    answers = await many(server, one, one, other, {"command": "c", "idempotency_key": "l"})
    assert answers[0] == answers[1]
    assert answers[2]["error"]["status"] == 409
    assert set(answers[3]) == {"reply"}
    assert await many(server, one) == answers[:1]
    assert json.loads((await server.post("/submit", one)).body) == answers[0]["reply"]
    assert (await server.post("/submit", other)).code == 409
    assert len(server.world.cluster.tasks) == 2


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", "body"),
        (b"{}", "body"),
        (b"[]", "body"),
        (b'{"submissions": []}', "submissions"),
        (b'{"submissions": {}}', "submissions"),
        (b'{"submissions": [{}], "more": 1}', "body"),
        (b'{"submissions": [{"command": "a"}', "body"),
        (b'{"submissions": [{"command": }]}', "body"),
        (b'{"submissions": [' + b"{}," * MAX_MANY + b"{}]}", "submissions"),
        (b'{"submissions": [' + b"[" * 200_000 + b"]}", "body"),
    ],
    ids=range(10),
)
async def test_what_is_no_list_of_submissions_creates_nothing(
    server: Server, body: bytes, field: str
) -> None:
    await server.join()
    response = await server.post("/submit-many", body)
    assert response.code == 422
    assert detail(response)[0]["field"] == field
    assert server.world.cluster.tasks == {}


# -- hostile bodies -----------------------------------------------------------------------


HOSTILE = [
    b"",
    b"null",
    b"0",
    b'"x"',
    b"[[]]",
    b"{",
    b'{"a": 1}',
    b"\xff\xfe",
    b'{"\xff": 1}',
    b'{"after": -1}',
    b'{"after": "1"}',
    b'{"after": 1e400}',
    b'{"after": ' + b"9" * 5000 + b"}",
    b'{"logs": [{"id": 1}]}',
    b'{"logs": [{"id": "1", "stream": "stdin"}]}',
    b'{"logs": [{"id": "1", "offset": -1}]}',
    b'{"logs": [{"id": "1", "more": 0}]}',
    b'{"logs": [' + b'{"id": "1"},' * 200 + b'{"id": "1"}]}',
    b'{"env_vars": {"1": "x"}}',
    b'{"env_vars": {"A": 1}}',
    b'{"env_vars": {"A": "\\u0000"}}',
    b'{"env_vars": {"A": "\\ud800"}}',
    b'{"env_vars": {"A": "' + b"x" * (1 << 20) + b'"}}',
    b'{"queue": "no"}',
    b'{"idempotency_key": ""}',
    b'{"idempotency_key": "\\ud800"}',
    b'{"idempotency_key": "' + b"k" * 201 + b'"}',
    b'{"submissions": [{"command": "a", "idempotency_key": "\\ud800"}]}',
    b'{"submissions": [{"command": "\xff"}]}',
    b'{"submissions": [{"command": "a", "env_vars": {"A": "\\ud800"}}]}',
    b'{"submissions": [{"command": "a", "required_memory_bytes": 1e300}]}',
    b'{"submissions": [' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"]}",
    b"[" * 100_000,
    b" " * (MAX_REQUEST + 1),
]


@pytest.mark.parametrize("path", ["/submit-many", "/rerun/ID", "/stream", "/submit"])
async def test_whatever_is_sent_is_answered_and_is_no_fault_of_the_host(
    server: Server, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    await server.join("n", node_info(range(100)))
    (task_id,) = await server.submitted(env_vars={"A": "1"})
    await server.world.finish(task_id)
    path = path.replace("ID", str(task_id))
    count = len(server.world.cluster.tasks)
    for body in HOSTILE:
        if path == "/stream" and body == b"":
            continue  # what is not asked for is left out: a stream of events
        response = await server.post(path, body)
        if path == "/submit-many" and response.code == 200:
            (answer,) = json.loads(response.body)["answers"]
            assert answer["error"]["status"] == 422, body[:80]
        else:
            assert response.code == 422, (body[:80], response.code)
            assert detail(response)[0]["reason"]
        assert len(response.body) < 1000
    assert len(server.world.cluster.tasks) == count
    assert "Traceback" not in caplog.text
