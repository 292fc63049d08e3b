from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hakuriver.model.auth import runner_token
from support.harness import Cluster, check_one_line, write_toml
from support.processes import run_hakuriver

if TYPE_CHECKING:
    from support.asking import Reply

ENDPOINTS = [
    ("GET", "/api/nodes"),
    ("GET", "/api/health"),
    ("GET", "/api/tasks"),
    ("GET", "/api/status/1"),
    ("GET", "/api/task/1/stdout"),
    ("GET", "/api/task/1/stdout?follow=1&offset=0"),
    ("GET", "/api/events"),
    ("POST", "/api/submit"),
    ("POST", "/api/kill/1"),
    ("GET", "/nodes"),
    ("POST", "/submit"),
]
BODY = {"command": "true", "targets": ["node1"]}


def _dial(cluster: Cluster, name: str, token: str | None, **headers: str) -> Reply:
    """Ask for the runner's WebSocket; the answer to one who is let in would be 101."""
    upgrade = {
        **headers,
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    path = f"/api/runner?name={name}"
    return cluster.http("GET", path, token=token, headers=upgrade)


@pytest.mark.parametrize(("method", "path"), ENDPOINTS)
def test_without_the_right_token_nothing_is_told(cluster: Cluster, method: str, path: str) -> None:
    body = BODY if method == "POST" else None
    for token in (None, "", "wrong", cluster.token[:-1], cluster.token + "x"):
        reply = cluster.http(method, path, body=body, token=token)
        assert reply.status == 401, token
        assert set(reply.json()) == {"detail"}
        assert cluster.token not in reply.body.decode()


def test_a_token_of_another_kind_is_not_accepted(cluster: Cluster) -> None:
    for token in (cluster.runner_secret, runner_token(cluster.runner_secret, "node1")):
        assert cluster.http("GET", "/api/nodes", token=token).status == 401
        assert cluster.http("POST", "/api/submit", body=BODY, token=token).status == 401
    basic = {"Authorization": f"Basic {cluster.token}"}
    assert cluster.http("GET", "/api/nodes", token=None, headers=basic).status == 401
    assert cluster.http("GET", f"/api/nodes?token={cluster.token}", token=None).status == 401
    assert cluster.unfinished() == []


def test_every_named_token_is_accepted(cluster: Cluster) -> None:
    for token in (cluster.token, cluster.second_token):
        assert cluster.http("GET", "/api/nodes", token=token).status == 200


def test_liveness_needs_no_token_and_tells_nothing(cluster: Cluster) -> None:
    reply = cluster.http("GET", "/healthz", token=None)
    assert reply.status == 200
    assert b"node1" not in reply.body


@pytest.mark.parametrize("kind", ["none", "client", "secret", "other node", "wrong"])
def test_only_the_nodes_own_token_speaks_for_a_node(cluster: Cluster, kind: str) -> None:
    token = {
        "none": None,
        "client": cluster.token,
        "secret": cluster.runner_secret,
        "other node": runner_token(cluster.runner_secret, "node2"),
        "wrong": "wrong",
    }[kind]
    for name in ("node1", "newcomer"):
        assert _dial(cluster, name, token).status in {401, 403}
        path = f"/api/runner/launch/1?name={name}"
        assert cluster.http("GET", path, token=token).status in {401, 403}
    assert {node["hostname"] for node in cluster.get("/api/nodes")["nodes"]} == {"node1", "node2"}
    assert cluster.run("true")["status"] == "completed"


@pytest.mark.parametrize("kind", ["other", "own", "rebound"])
def test_a_page_gets_no_runner_link_whatever_it_knows(cluster: Cluster, kind: str) -> None:
    own = f"127.0.0.1:{cluster.port}"
    host = "evil.example" if kind == "rebound" else own
    origin = f"http://{own if kind == 'own' else 'evil.example'}"
    token = runner_token(cluster.runner_secret, "newcomer")
    for more in ({}, {"Sec-Fetch-Site": "same-origin"}):
        reply = _dial(cluster, "newcomer", token, Origin=origin, Host=host, **more)
        assert reply.status == 403
        assert "pages" in reply.json()["detail"]


def test_a_runner_with_a_wrong_secret_does_not_join(
    cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = Cluster(
        tmp_path_factory.mktemp("stranger"),
        nodes={"stranger": "0"},
        settings={"network": {"host_port": cluster.port}, "security": {"runner_secret": "wrong"}},
    )
    other.start_runner("stranger")
    try:
        for _ in range(20):
            assert cluster.run("true")["status"] == "completed"
        assert cluster.node_status("stranger") is None
    finally:
        other.stop()


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "127.0.0.1.evil.example"])
def test_a_foreign_host_header_is_refused(cluster: Cluster, host: str) -> None:
    headers = {"Host": host.format(port=cluster.port)}
    for method, path in (("GET", "/api/nodes"), ("POST", "/api/submit")):
        body = BODY if method == "POST" else None
        reply = cluster.http(method, path, body=body, headers=headers)
        assert 400 <= reply.status < 500
    assert cluster.unfinished() == []


@pytest.mark.parametrize("kind", ["127.0.0.1", "localhost"])
def test_the_loopbacks_names_are_accepted(cluster: Cluster, kind: str) -> None:
    headers = {"Host": f"{kind}:{cluster.port}"}
    assert cluster.http("GET", "/api/nodes", headers=headers).status == 200


@pytest.mark.parametrize(
    "kind",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/jsonx"],
)
def test_a_body_that_is_not_json_by_its_type_is_refused(cluster: Cluster, kind: str) -> None:
    before = cluster.get("/api/tasks?limit=1")["tasks"]
    reply = cluster.http("POST", "/api/submit", body=BODY, headers={"Content-Type": kind})
    assert 400 <= reply.status < 500
    assert reply.json()["detail"]
    assert cluster.get("/api/tasks?limit=1")["tasks"] == before


def test_json_with_a_charset_is_accepted(cluster: Cluster) -> None:
    headers = {"Content-Type": "application/json; charset=utf-8"}
    assert cluster.http("POST", "/api/submit", body=BODY, headers=headers).status == 202


def test_the_client_tells_a_wrong_token_in_one_line(cluster: Cluster) -> None:
    config = write_toml(
        cluster.root / "wrong.toml",
        {"network": {"host_port": cluster.port}, "security.tokens": {"default": "wrong-token"}},
    )
    for args in (["--list-nodes"], ["--", "true"]):
        done = cluster.run_client("-c", str(config), *args)
        assert done.returncode not in {0, 2}
        check_one_line(done.stderr, "token")
        assert "wrong-token" not in done.stderr
        assert done.stdout == ""


def test_no_authentication_off_loopback_is_refused(cluster: Cluster) -> None:
    config = write_toml(
        cluster.root / "open.toml",
        {
            "network": {"host_bind_ip": "0.0.0.0", "host_port": 0},
            "paths": {"state_dir": str(cluster.root / "open")},
            "security": {"auth": "none"},
        },
    )
    done = run_hakuriver("host", "-c", str(config), env=cluster.env, cwd=cluster.root)
    assert done.returncode not in {0, -9}
    check_one_line(done.stderr, "auth")
