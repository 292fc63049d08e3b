"""The one connection for a whole page (``POST /stream``), and what came over it."""

from __future__ import annotations

import base64
import json
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.harness import Cluster


@dataclass
class Feed:
    """The lines of a stream, sorted by what they are about as they are read."""

    _lines: Iterator[bytes]
    events: list[Any] = field(default_factory=list)
    arrivals: list[tuple[float, Any]] = field(default_factory=list)
    data: dict[tuple[str, str], bytes] = field(default_factory=dict)
    starts: dict[tuple[str, str], int] = field(default_factory=dict)
    ends: dict[tuple[str, str], Any] = field(default_factory=dict)
    errors: dict[tuple[str, str], str] = field(default_factory=dict)

    def read_until(self, enough: Callable[[Feed], object], *, limit: float = 60) -> Feed:
        """Read on until `enough` is true of what came; the socket's time-out bounds silence."""
        deadline = time.monotonic() + limit
        while not enough(self):
            assert time.monotonic() < deadline, f"not within {limit} s: {self}"
            self.read_line()
        return self

    def read_line(self) -> Any:
        raw = next(self._lines, None)
        assert raw is not None, f"the host ended the stream: {self}"
        line = json.loads(raw)
        self.arrivals.append((time.monotonic(), line))
        assert line.keys() in ({"event"}, {"log"}), line
        if "event" in line:
            self.events.append(line["event"])
        else:
            self._take_log(line["log"])
        return line

    def _take_log(self, news: Any) -> None:
        key = (news["id"], news["stream"])
        assert key not in self.ends, f"nothing comes after the end of a log: {news}"
        if "offset" in news:
            chunk = news["data"].encode() if "data" in news else base64.b64decode(news["b64"])
            start = self.starts.setdefault(key, news["offset"])
            seen = self.data.setdefault(key, b"")
            assert news["offset"] == start + len(seen), f"a gap, or bytes twice: {news}"
            self.data[key] = seen + chunk
        if "end" in news:
            self.ends[key] = news["end"]
        if "error" in news:
            self.errors[key] = news["error"]

    def states_of(self, task_id: str) -> list[str]:
        """Return the states that the events have told of a task, in their order."""
        tasks = [event["task"] for event in self.events if "task" in event]
        return [task["status"] for task in tasks if task["task_id"] == task_id]


@contextmanager
def open_stream(cluster: Cluster, *, timeout: float = 60, **body: object) -> Iterator[Feed]:
    """Ask for a stream that must be granted, and yield what comes."""
    connection = HTTPConnection("127.0.0.1", cluster.port, timeout=timeout)
    try:
        headers = {
            "Authorization": f"Bearer {cluster.token}",
            "Content-Type": "application/json",
        }
        connection.request("POST", "/api/stream", json.dumps(body).encode(), headers)
        response = connection.getresponse()
        assert response.status == 200, f"{response.status} {response.read()!r}"
        try:
            yield Feed(iter(response.readline, b""))
        finally:
            response.close()
    finally:
        connection.close()


def wish(task_id: str, stream: str = "stdout", offset: int = 0) -> dict[str, object]:
    """Return one log of a stream's request."""
    return {"id": task_id, "stream": stream, "offset": offset}
