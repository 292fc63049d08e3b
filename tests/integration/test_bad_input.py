from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.asking import Reply
    from support.harness import Cluster

MIB = 1 << 20
GOOD: dict[str, Any] = {"command": "true", "targets": ["node1"]}
#: Endpoints that take a body; the second is one that they accept, or nearly.
BODIES: dict[str, Any] = {
    "/api/submit": GOOD,
    "/api/submit-many": {"submissions": [GOOD]},
    "/api/rerun/1": {},
    "/api/stream": {"logs": []},
}
#: Bodies that are wrong for all of them.
WRONG: dict[str, Any] = {
    "null": b"null",
    "a number": b"1",
    "a text": b'"text"',
    "a list": b"[]",
    "half an object": b'{"command": "true"',
    "two objects": b"{}{}",
    "no UTF-8": b'{"name": "\xff\xfe"}',
    "a lone surrogate": rb'{"name": "\ud800"}',
    "not a number": b'{"required_cores": NaN}',
    "an unknown field": b'{"frobnicate": 1}',
    "the same field as an object": b'{"logs": {"a": 1}, "submissions": {"a": 1}, "queue": {}}',
    "a deep list": b"[" * 100_000 + b"]" * 100_000,
    "a deep object": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "a huge number": b'{"after": 1' + b"0" * 5000 + b"}",
    "zero bytes": b"\0" * 1000,
}
#: Values that stand where an id is expected; none of them is one.
IDS = (
    *("abc", "-1", "0", "00", "+1", "1.0", "1e5", "0x10", "1_000", " 1", "1 ", "१२३", "²"),
    *("9" * 19, "9" * 400, "18446744073709551616", "%00", "..", "../nodes", "a/b", "null"),
    *("'; DROP TABLE task; --", "*", "%", "_", "\n", "ü", "🙂"),
)
NAMES = (
    *("nosuch", "a/b", "..", "%00", "a b", "ü", "x" * 5000, "node1:0", "NODE1", "*", "%", "\n"),
    *("'; DROP TABLE node; --", "node1\0", "\x1b[31m"),
)
ID_PATHS = ("kill-batch", "rerun", "kill")
#: The fields of a submission with values of the wrong kind.
FIELDS: dict[str, tuple[object, ...]] = {
    "queue": ("yes", 1, 0, [], {}, "false"),
    "idempotency_key": ("", "k" * 201, 1, [], "a\0b", True),
}


def _check_refused(reply: Reply, *statuses: int) -> None:
    assert reply.status in (statuses or (400, 404, 413, 422)), (reply.status, reply.body[:500])
    assert reply.json()["detail"]
    assert b"Traceback" not in reply.body


@pytest.fixture(autouse=True)
def _no_tasks_and_the_same_nodes(cluster: Cluster) -> Iterator[None]:
    """Whatever was asked for, nothing was created, and the nodes are as they were."""
    before = cluster.get("/api/tasks?limit=1")["tasks"]
    yield
    assert cluster.get("/api/tasks?limit=1")["tasks"] == before
    nodes = {n["hostname"]: n["draining"] for n in cluster.get("/api/nodes")["nodes"]}
    assert nodes == {"node1": False, "node2": False}


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("kind", WRONG)
def test_a_body_of_the_wrong_kind_is_refused(cluster: Cluster, path: str, kind: str) -> None:
    _check_refused(cluster.http("POST", path, body=WRONG[kind]))


@pytest.mark.parametrize("path", BODIES)
def test_a_body_that_is_too_large_is_refused(cluster: Cluster, path: str) -> None:
    body = json.dumps({**BODIES[path], "name": "x" * (17 * MIB)}).encode()
    try:
        reply = cluster.http("POST", path, body=body)
    except (ConnectionError, TimeoutError):
        # A host that has answered need not read on; that it lives is checked after each test.
        return
    _check_refused(reply, 400, 413, 422)


@pytest.mark.parametrize("path", ["/api/submit", "/api/submit-many"])
def test_no_body_is_refused(cluster: Cluster, path: str) -> None:
    _check_refused(cluster.http("POST", path, body=b""), 422)


@pytest.mark.parametrize("path", [*BODIES, "/api/kill-batch/1", "/api/nodes/node1/drain"])
def test_a_form_of_another_site_is_refused(cluster: Cluster, path: str) -> None:
    for kind in ("application/x-www-form-urlencoded", "text/plain", "multipart/form-data"):
        body = json.dumps(BODIES.get(path, {})).encode()
        reply = cluster.http("POST", path, body=body, headers={"Content-Type": kind})
        assert reply.status in {400, 403, 415, 422}, (kind, reply.status)
    other = {"Host": "evil.example"}
    reply = cluster.http("POST", path, body=BODIES.get(path, {}), headers=other)
    assert reply.status in {400, 403, 421, 422}
    assert "evil.example" in reply.body.decode()


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_of_the_wrong_kind_is_refused_by_name(cluster: Cluster, field: str) -> None:
    for value in FIELDS[field]:
        reply = cluster.http("POST", "/api/submit", body={**GOOD, field: value})
        _check_refused(reply, 422)
        assert [error["field"] for error in reply.json()["detail"]] == [field], value
        again = cluster.http("POST", "/api/rerun/1", body={field: value})
        _check_refused(again, 404, 422)
    if field == "idempotency_key":
        reply = cluster.http(
            "POST", "/api/submit", body={**GOOD, field: "k" * 200, "targets": ["nosuch"]}
        )
        assert reply.status != 422


@pytest.mark.parametrize("value", [None, 1, "A=b", ["A"], {"A": 1}, {"A": None}, {"": "x"}])
def test_variables_of_the_wrong_kind_are_refused_in_a_rerun(
    cluster: Cluster, value: object
) -> None:
    _check_refused(cluster.http("POST", "/api/rerun/1", body={"env_vars": value}), 404, 422)


@pytest.mark.parametrize("path", ID_PATHS)
@pytest.mark.parametrize("text", IDS)
def test_what_is_no_id_is_not_found(cluster: Cluster, path: str, text: str) -> None:
    reply = cluster.http("POST", f"/api/{path}/{quote(text, safe='')}")
    _check_refused(reply, 400, 404, 422)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_node_is_not_found(cluster: Cluster, name: str) -> None:
    quoted = quote(name, safe="")
    for method, path in (
        ("POST", f"/api/nodes/{quoted}/drain"),
        ("POST", f"/api/nodes/{quoted}/resume"),
        ("DELETE", f"/api/nodes/{quoted}"),
    ):
        _check_refused(cluster.http(method, path), 400, 404, 422)


@pytest.mark.parametrize(
    "query",
    [
        *("mine=maybe", "mine=", "mine=2", "limit=0", "limit=-1", "limit=1e3", "limit=100000000"),
        *("limit=", "state=asleep", "before=abc", "before=-1", "before=" + "9" * 30, "batch=x"),
        *("batch=" + "9" * 30, "frobnicate=1", "limit=1&limit=2", "name=%ff", "node=%00", "mine"),
    ],
)
def test_a_query_that_makes_no_sense_is_no_fault(cluster: Cluster, query: str) -> None:
    reply = cluster.http("GET", f"/api/tasks?{query}")
    assert reply.status < 500, reply.body
    assert reply.status != 200 or isinstance(reply.json()["tasks"], list)
    if reply.status != 200:
        _check_refused(reply, 400, 404, 422)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(("GET", path) for path in BODIES),
        *(("GET", f"/api/{path}/1") for path in ID_PATHS),
        *(("PUT", f"/api/{path}/1") for path in ID_PATHS),
        *(("GET", f"/api/nodes/node1/{action}") for action in ("drain", "resume")),
        ("POST", "/api/nodes/node1"),
        ("DELETE", "/api/nodes/node1/drain"),
        ("DELETE", "/api/nodes"),
        ("POST", "/api/tasks"),
    ],
)
def test_another_method_is_not_allowed(cluster: Cluster, method: str, path: str) -> None:
    reply = cluster.http(method, path, body={} if method in {"POST", "PUT"} else None)
    assert reply.status == 405
    assert reply.json()["detail"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(("POST", path) for path in (*BODIES, "/api/kill-batch/1")),
        *(("POST", f"/api/nodes/node1/{action}") for action in ("drain", "resume")),
        ("DELETE", "/api/nodes/node1"),
        ("GET", "/api/tasks?mine=1"),
        ("GET", "/api/runner/check?name=node1"),
        *(("POST", path) for path in ("/submit-many", "/kill-batch/1", "/rerun/1", "/stream")),
        ("DELETE", "/nodes/node1"),
    ],
)
def test_without_the_right_token_nothing_is_told_or_changed(
    cluster: Cluster, method: str, path: str
) -> None:
    body = BODIES.get(path, {}) if method == "POST" else None
    for token in (None, "wrong", cluster.token[:-1]):
        reply = cluster.http(method, path, body=body, token=token)
        assert reply.status == 401, (token, reply.status)
        assert set(reply.json()) == {"detail"}


@pytest.mark.parametrize("name", ["", "nosuch", "node1", "a b", "..", "x" * 5000, "%00", "ü"])
def test_a_client_may_not_ask_in_a_runners_name(cluster: Cluster, name: str) -> None:
    path = f"/api/runner/check?name={quote(name)}"
    for token in (cluster.token, cluster.runner_secret):
        assert cluster.http("GET", path, token=token).status in {400, 401, 403, 404, 422}
    assert cluster.http("GET", "/api/runner/check", token=cluster.token).status < 500


@pytest.mark.parametrize(
    "head",
    [
        b"GET /api/nodes HTTP/9.9\r\n\r\n",
        b"POST /api/stream HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        b"POST /api/stream HTTP/1.1\r\nContent-Length: 99999999999999\r\n\r\n",
        b"POST /api/rerun/1 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"DELETE /api/nodes/%ff%fe HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20,
        b"POST /api/submit-many HTTP/1.1\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
    ],
    ids=["version", "negative", "promise", "chunks", "path", "TLS", "headers"],
)
def test_what_is_no_http_ends_that_connection_alone(cluster: Cluster, head: bytes) -> None:
    with socket.create_connection(("127.0.0.1", cluster.port), timeout=60) as raw:
        raw.sendall(head)
        raw.shutdown(socket.SHUT_WR)
        try:
            answer = raw.recv(65536)
        except ConnectionError:
            answer = b""
    assert b" 500 " not in answer.split(b"\r\n")[0]
    assert b"Traceback" not in answer
    assert cluster.http("GET", "/healthz", token=None).status == 200


def test_mistakes_in_many_submissions_refuse_those_alone(cluster: Cluster) -> None:
    wrong: list[Any] = [
        *(None, 1, "true", [], {}, {"command": ""}, {"command": "true", "frobnicate": 1}),
        *({"command": "true", "queue": "no"}, {"command": "a\0b"}, {"command": 5}),
        {"command": "true", "targets": ["node1:x"]},
        {"command": "true", "required_cores": -1},
        {"command": "true", "idempotency_key": "k" * 201},
        {"command": "true", "targets": ["nosuch"]},
    ]
    reply = cluster.http("POST", "/api/submit-many", body={"submissions": wrong})
    assert reply.status == 200
    answers = reply.json()["answers"]
    assert len(answers) == len(wrong)
    for submission, answer in zip(wrong, answers, strict=True):
        assert answer.keys() == {"error"}, submission
        assert 400 <= answer["error"]["status"] < 500 or answer["error"]["status"] == 503
        assert answer["error"]["detail"]


@pytest.mark.parametrize("count", [0, 1001])
def test_too_few_or_too_many_submissions_are_refused(cluster: Cluster, count: int) -> None:
    body = {"submissions": [GOOD] * count}
    reply = cluster.http("POST", "/api/submit-many", body=body)
    _check_refused(reply, 422)
    assert reply.json()["detail"][0]["field"] == "submissions"
