"""The network between a host and its runners: links that delay, lose and break as TCP does.

A link carries whole frames, in order and each once, in both directions. A cut loses what is under
way but for a part from the front; either end may fail to notice it. Host and runner are the real
ones, from the first word on: what is played is the WebSocket between them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from hakuriver.host.links import RunnerLink

if TYPE_CHECKING:
    from hakuriver.host.services import Services


class Pipe:
    """One link: `up` leads to the host, `down` to the runner; None is its end."""

    def __init__(self, node: str) -> None:
        self.node = node
        self.up: deque[bytes | None] = deque()
        self.down: deque[bytes | None] = deque()
        #: What is written to a direction whose way is cut vanishes.
        self.up_cut = self.down_cut = False
        self.host: HostEnd | None = None
        self.runner = RunnerEnd(self)

    @property
    def is_over(self) -> bool:
        return self.host is None and self.runner.over

    def carry_up(self, count: int) -> None:
        for _ in range(min(count, len(self.up))):
            frame = self.up.popleft()
            host = self.host
            if host is None:
                return
            if frame is None:
                self.host = None
                host.on_close()
            else:
                host.on_message(frame)

    def carry_down(self, count: int) -> None:
        for _ in range(min(count, len(self.down))):
            self.runner.hear(self.down.popleft())

    def cut_up(self, keep: int, *, noticed: bool) -> None:
        """Lose what is on its way to the host, but the first `keep` frames."""
        if not self.up_cut:
            self.up_cut = True
            _shorten(self.up, keep, noticed=noticed)

    def cut_down(self, keep: int, *, noticed: bool) -> None:
        """Lose what is on its way to the runner, but the first `keep` frames."""
        if not self.down_cut:
            self.down_cut = True
            _shorten(self.down, keep, noticed=noticed)

    def notice(self) -> None:
        """Let both ends notice what was cut."""
        if self.up_cut and None not in self.up:
            self.up.append(None)
        if self.down_cut and None not in self.down:
            self.down.append(None)


def _shorten(way: deque[bytes | None], keep: int, *, noticed: bool) -> None:
    while len(way) > keep:
        way.pop()
    if noticed:
        way.append(None)


class HostEnd(RunnerLink):
    """The host's handler of a link, without the WebSocket below it."""

    def __init__(self, pipe: Pipe, services: Services) -> None:
        # The handler's own beginning is that of a request, which there is none of here.
        self.application: Any = SimpleNamespace(settings={"services": services})
        self.ws_connection: Any = self
        self.close_code = self.close_reason = None
        self.pipe = pipe
        self.begin(pipe.node, services)

    def write_message(self, message: Any, binary: bool = False) -> asyncio.Future[None]:  # noqa: ARG002, FBT001, FBT002
        if not self.pipe.down_cut:
            self.pipe.down.append(message)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    def close(self, code: int | None = None, reason: str | None = None) -> None:
        self.close_code, self.close_reason = code, reason
        self.ws_connection = None
        self.pipe.host = None
        self.pipe.cut_down(len(self.pipe.down), noticed=True)
        asyncio.get_running_loop().call_soon(self.on_close)


class RunnerEnd:
    """What the runner's link holds for a WebSocket."""

    protocol = None

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self._inbox: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.over = False

    def hear(self, frame: bytes | None) -> None:
        if not self.over:
            self._inbox.put_nowait(frame)

    async def read_message(self) -> bytes | None:
        frame = await self._inbox.get()
        if frame is None:
            self._inbox.put_nowait(None)
        return frame

    def write_message(self, message: bytes, binary: bool = False) -> asyncio.Future[None]:  # noqa: ARG002, FBT001, FBT002
        if not self.over and not self._pipe.up_cut:
            self._pipe.up.append(message)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    def close(self) -> None:
        if not self.over:
            self.over = True
            self._pipe.cut_up(len(self._pipe.up), noticed=True)
