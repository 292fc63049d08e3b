"""Asking a host over HTTP as others than our own client do."""

from __future__ import annotations

import json
import ssl
import time
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from email.message import Message

_UNSET: Any = object()


@dataclass(frozen=True)
class Reply:
    """What the host answered."""

    status: int
    headers: Message
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Asking:
    """Whoever has the `port` of a host on this machine, the `token` for it, and its `settings`."""

    port: int
    token: str
    settings: Mapping[str, Mapping[str, object]]

    def http(
        self,
        method: str,
        path: str,
        *,
        body: object = None,
        token: str | None = _UNSET,
        headers: Mapping[str, str] | None = None,
        timeout: float = 60,
    ) -> Reply:
        """Ask the host; `body` is sent as JSON, or as it is when it is bytes."""
        connection = self.connection(timeout)
        try:
            self._request(connection, method, path, body=body, token=token, headers=headers)
            response = connection.getresponse()
            return Reply(response.status, response.headers, response.read())
        finally:
            connection.close()

    def get(self, path: str) -> Any:
        """Return the JSON of a GET that must succeed."""
        reply = self.http("GET", path)
        assert reply.status == 200, f"GET {path}: {reply.status} {reply.body!r}"
        return reply.json()

    def post(self, path: str, body: object = None, *, status: int = 202) -> Any:
        """Return the JSON of a POST that must be answered with `status`."""
        reply = self.http("POST", path, body=body)
        assert reply.status == status, f"POST {path}: {reply.status} {reply.body!r}"
        return reply.json()

    @contextmanager
    def stream(self, path: str, *, timeout: float = 60) -> Iterator[Iterator[tuple[float, Any]]]:
        """Yield the lines of a live stream, each with the moment (`time.time`) of its arrival."""
        with self.raw(path, timeout=timeout) as response:
            yield ((time.time(), json.loads(line)) for line in iter(response.readline, b""))

    @contextmanager
    def raw(self, path: str, *, timeout: float = 60) -> Iterator[HTTPResponse]:
        """Yield the answer to a GET before its body is read."""
        connection = self.connection(timeout)
        try:
            self._request(connection, "GET", path)
            response = connection.getresponse()
            assert response.status == 200, f"GET {path}: {response.status} {response.read()!r}"
            try:
                yield response
            finally:
                response.close()
        finally:
            connection.close()

    def connection(self, timeout: float) -> HTTPConnection:
        """Return a connection to the host, by TLS if its settings have a certificate."""
        network = self.settings.get("network", {})
        if "tls_cert" not in network:
            return HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        context = ssl.create_default_context(cafile=str(network["tls_ca"]))
        return HTTPSConnection("127.0.0.1", self.port, timeout=timeout, context=context)

    def _request(
        self,
        connection: HTTPConnection,
        method: str,
        path: str,
        *,
        body: object = None,
        token: str | None = _UNSET,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        sent: dict[str, str] = {}
        token = self.token if token is _UNSET else token
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"
        data = body if isinstance(body, bytes) else None
        if body is not None:
            sent["Content-Type"] = "application/json"
            data = data if data is not None else json.dumps(body).encode()
        connection.request(method, path, data, {**sent, **(headers or {})})
