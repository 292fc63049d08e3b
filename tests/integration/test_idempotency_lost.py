from __future__ import annotations

import socket
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from hakuriver import Client, HakuRiverError
from support.harness import write_toml

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.harness import Cluster


class Relay:
    """Stands between client and host; it loses the answers to the first submissions.

    The request reaches the host and is answered there; the client sees a connection that broke.
    """

    def __init__(self, port: int, *, lose: int) -> None:
        self.lost = 0
        self._lose = lose
        self._port = port
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._run(self._accept)

    def _run(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near = self._server.accept()[0]
                far = socket.create_connection(("127.0.0.1", self._port))
                self._open += [near, far]
                submits = threading.Event()
                self._run(self._forward, near, far, submits)
                self._run(self._back, far, near, submits)

    def _forward(self, near: socket.socket, far: socket.socket, submits: threading.Event) -> None:
        with suppress(OSError):
            while data := near.recv(65536):
                if data.startswith((b"POST /api/submit", b"POST /submit")):
                    submits.set()
                far.sendall(data)
        _close(near, far)

    def _back(self, far: socket.socket, near: socket.socket, submits: threading.Event) -> None:
        with suppress(OSError):
            while data := far.recv(65536):
                if submits.is_set() and self.lost < self._lose:
                    self.lost += 1
                    break
                near.sendall(data)
        _close(near, far)

    def close(self) -> None:
        _close(self._server, *self._open)
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()


def _close(*sockets: socket.socket) -> None:
    for one in sockets:
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
        one.close()


@contextmanager
def _relay(cluster: Cluster, *, lose: int) -> Iterator[Relay]:
    relay = Relay(cluster.port, lose=lose)
    try:
        yield relay
    finally:
        relay.close()


def test_a_submission_whose_answer_is_lost_is_sent_again_and_is_one_task(
    cluster: Cluster,
) -> None:
    with _relay(cluster, lose=2) as relay:
        client = Client(f"http://127.0.0.1:{relay.port}", token=cluster.token)
        try:
            task = client.run(["true"], target="node1", name="answer lost")
            assert task.result(timeout=60).exit_code == 0
        finally:
            client.close()
        assert relay.lost == 2
    (shown,) = cluster.get("/api/tasks?name=answer+lost")["tasks"]
    assert shown["task_id"] == task.task_id


def test_the_commands_submission_is_one_task_though_the_answer_is_lost(cluster: Cluster) -> None:
    with _relay(cluster, lose=1) as relay:
        config = write_toml(
            cluster.root / "relay.toml",
            {
                "network": {"host_port": relay.port},
                "security.tokens": {"default": cluster.token},
            },
        )
        args = ("-c", str(config), "--target", "node1", "--name", "lost once", "--wait", "--")
        cluster.run_client(*args, "true", check=0)
        assert relay.lost == 1
    assert len(cluster.get("/api/tasks?name=lost+once")["tasks"]) == 1


def test_a_rerun_whose_answer_is_lost_is_one_task(cluster: Cluster) -> None:
    first = cluster.run("true", name="run again")["task_id"]
    key = {"idempotency_key": "rerun-key-1"}
    replies = [cluster.post(f"/api/rerun/{first}", key) for _ in range(2)]
    assert replies[0] == replies[1]
    assert len(cluster.get("/api/tasks?name=run+again")["tasks"]) == 2


def test_a_refusal_is_not_sent_again(cluster: Cluster) -> None:
    with _relay(cluster, lose=0) as relay:
        client = Client(f"http://127.0.0.1:{relay.port}", token=cluster.token)
        try:
            with pytest.raises(HakuRiverError):
                client.run(["true"], target="nosuch")
        finally:
            client.close()
