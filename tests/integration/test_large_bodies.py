"""Bodies over the largest that a host takes at all: refused in the words of every other error."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from hakuriver.client.transport import Transport
from hakuriver.errors import InvalidRequest
from hakuriver.host.bodies import MAX_BODY
from hakuriver.model.submission import MAX_REQUEST

if TYPE_CHECKING:
    from collections.abc import Iterator
    from http.client import HTTPConnection

    from support.harness import Cluster

MIB = 1 << 20
WAYS = ["announced", "chunked"]
WORDS = f"the body is larger than {MAX_BODY} bytes; a request takes at most {MAX_REQUEST}"


def pieces(size: int) -> Iterator[bytes]:
    whole, rest = divmod(size, MIB)
    yield from [b" " * MIB] * whole
    yield b" " * rest


def send(connection: HTTPConnection, cluster: Cluster, way: str, size: int) -> tuple[int, Any]:
    """Send so large a body to its end, and return the answer's status and its JSON."""
    headers = {
        "Authorization": f"Bearer {cluster.token}",
        "Content-Type": "application/json",
        **({"Content-Length": str(size)} if way == "announced" else {}),
    }
    connection.request(
        "POST", "/api/submit", pieces(size), headers, encode_chunked=way == "chunked"
    )
    response = connection.getresponse()
    assert response.headers["Content-Type"] == "application/json"
    return response.status, json.loads(response.read())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", [MAX_BODY + 1, 3 * MAX_BODY])
def test_a_body_that_is_far_too_large_is_told_so(cluster: Cluster, way: str, size: int) -> None:
    connection = cluster.connection(20)
    if way == "chunked":
        # A client that has asked before on the same connection is told as well.
        connection.request("GET", "/healthz")
        connection.getresponse().read()
    try:
        assert send(connection, cluster, way, size) == (413, {"detail": WORDS})
    finally:
        connection.close()
    assert cluster.get("/api/nodes")["nodes"]


@pytest.mark.parametrize("way", WAYS)
def test_the_largest_body_is_left_to_the_handlers(cluster: Cluster, way: str) -> None:
    connection = cluster.connection(20)
    try:
        status, answer = send(connection, cluster, way, MAX_BODY)
    finally:
        connection.close()
    assert status == 422
    assert answer["detail"] == [{"field": "body", "reason": f"is larger than {MAX_REQUEST} bytes"}]


def answer_to(cluster: Cluster, *sent: str) -> tuple[str, dict[str, str], bytes]:
    """Send the head of a request and nothing more; return status line, headers and the rest."""
    head = "\r\n".join([*sent, "Host: localhost", "", ""])
    with socket.create_connection(("127.0.0.1", cluster.port), timeout=60) as raw:
        raw.sendall(head.encode())
        with raw.makefile("rb") as answer:
            line = answer.readline().decode()
            headers: dict[str, str] = {}
            while (text := answer.readline().decode().strip()) != "":
                name, _, value = text.partition(": ")
                headers[name] = value
            length = 0 if sent[0].startswith("HEAD") else int(headers["Content-Length"])
            return line, headers, answer.read(length)


@pytest.mark.parametrize("method", ["POST", "GET", "HEAD", "PURGE"])
@pytest.mark.parametrize("length", [str(MAX_BODY + 1), "9" * 30])
def test_what_is_announced_need_not_be_sent(cluster: Cluster, method: str, length: str) -> None:
    line, headers, body = answer_to(
        cluster, f"{method} /api/submit HTTP/1.1", f"Content-Length: {length}"
    )
    assert line.startswith("HTTP/1.1 413 ")
    assert headers["Connection"] == "close"
    assert method == "HEAD" or json.loads(body) == {"detail": WORDS}


def test_who_asks_before_he_sends_is_not_told_to_go_on(cluster: Cluster) -> None:
    head = (
        f"POST /api/submit HTTP/1.1\r\nContent-Length: {MAX_BODY + 1}\r\n"
        "Host: localhost\r\nExpect: 100-continue\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", cluster.port), timeout=60) as raw:
        raw.sendall(head.encode())
        with raw.makefile("rb") as answer:
            whole = answer.read()
    assert whole.startswith(b"HTTP/1.1 413 ")
    assert whole.endswith(f'"{WORDS}"}}'.encode())


class Much(msgspec.Struct):
    name: str


def test_our_client_tells_it(cluster: Cluster) -> None:
    async def ask() -> None:
        there = Transport(f"http://127.0.0.1:{cluster.port}", cluster.token)
        try:
            await there.request("POST", "/api/submit", Much, body=Much("x" * (MAX_BODY + MIB)))
        finally:
            await there.close()

    with pytest.raises(InvalidRequest, match=WORDS):
        asyncio.run(ask())
