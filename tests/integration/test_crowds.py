"""Many connections that say nothing, say it slowly, or do not listen."""

from __future__ import annotations

import resource
import socket
import time
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

import pytest

from hakuriver.host.listening import PATIENCE
from support.processes import resident_bytes, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.harness import Cluster

MIB = 1 << 20
_CROWD = 2000


@pytest.fixture(autouse=True)
def _many_files() -> Iterator[None]:
    """Let this process hold a crowd of connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 2 * _CROWD + 1000), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _connect(cluster: Cluster, said: bytes, crowd: ExitStack) -> socket.socket:
    connection = crowd.enter_context(socket.create_connection(("127.0.0.1", cluster.port), 60))
    if said:
        connection.sendall(said)
    return connection


@pytest.mark.parametrize("said", [b"", b"GET /api/nodes HTTP/1.1\r\nX-Slow: "])
def test_a_crowd_of_silent_connections_keeps_nobody_out(cluster: Cluster, said: bytes) -> None:
    before = resident_bytes(cluster.host.pid)
    with ExitStack() as crowd:
        connections = [_connect(cluster, said, crowd) for _ in range(_CROWD)]
        begin = time.monotonic()
        assert cluster.run("echo", "through the crowd")["status"] == "completed"
        assert time.monotonic() - begin < PATIENCE / 2, "it waited until they were given up"
        # A runner that comes now finds its way in as well.
        cluster.kill("node2")
        cluster.restart("node2")
        assert resident_bytes(cluster.host.pid) < before + 64 * MIB

        def ended() -> int:
            gone = 0
            for connection in connections[: _CROWD // 2]:
                connection.setblocking(False)
                try:
                    gone += connection.recv(1) == b""
                except BlockingIOError:
                    continue
                except ConnectionError:
                    gone += 1
            return gone

        # The oldest have given way.
        wait_until(lambda: ended() == _CROWD // 2, what="the oldest are closed", interval=0.2)


def test_followers_that_do_not_read_cost_little_memory(fresh_cluster: Cluster) -> None:
    cluster = fresh_cluster
    token = f"Authorization: Bearer {cluster.token}"
    ask = f"GET /api/events HTTP/1.1\r\nHost: localhost\r\n{token}\r\n\r\n"
    with ExitStack() as crowd:
        followers = [_connect(cluster, ask.encode(), crowd) for _ in range(200)]
        for follower in followers:
            assert follower.recv(64).startswith(b"HTTP/1.1 200")
        before = resident_bytes(cluster.host.pid)
        name = "x" * 200
        for _ in range(5):
            requests = [
                {"command": "true", "targets": ["node1"], "name": name, "required_cores": 0}
                for _ in range(200)
            ]
            cluster.post("/api/submit-many", {"submissions": requests}, status=200)
        wait_until(lambda: not cluster.unfinished(), timeout=120, what="all ended", interval=0.2)
        # A thousand tasks with four changes each are some 4 MB for each follower.
        assert resident_bytes(cluster.host.pid) < before + 150 * MIB


@pytest.mark.parametrize("path", ["/api/nodes", "/api/runner?name=node1"])
def test_wrong_tokens_are_counted_and_right_ones_let_in(fresh_cluster: Cluster, path: str) -> None:
    cluster = fresh_cluster
    begin = time.monotonic()
    with closing(cluster.connection(20)) as connection:
        # A thousand are answered at once, and then twenty a second: many more on a slow machine.
        for asked in range(10_000):  # noqa: B007
            connection.request("GET", path, headers={"Authorization": "Bearer wrong"})
            refusal = connection.getresponse()
            refusal.read()
            if refusal.status != 401:
                break
    assert refusal.status == 429
    assert 1000 <= asked <= 1001 + 20 * (time.monotonic() - begin)
    assert int(refusal.headers["Retry-After"]) >= 1
    assert cluster.get("/api/nodes")["nodes"]
    cluster.kill("node1")
    cluster.restart("node1")
