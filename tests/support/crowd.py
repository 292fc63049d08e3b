"""Very many played runners in one thread: they link up again and again, and start nothing."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

from tornado.websocket import websocket_connect

from hakuriver.model.messages import (
    Acknowledge,
    Heartbeat,
    Kill,
    Known,
    KnownEnd,
    Launch,
    Message,
    Welcome,
    encode,
    messages_from_host,
)
from hakuriver.model.nodes import Metrics
from support.host_world import completed, hello, node_info, started
from support.played_runner import KEEP, link_request

if TYPE_CHECKING:
    from tornado.websocket import WebSocketClientConnection

_PAUSE = 0.2


class Crowd:
    """`count` nodes ``n0``, ``n1``, … of `cores` CPUs each; a task of `KEEP` runs until `free`."""

    def __init__(self, port: int, secret: str, *, count: int, cores: int, beat: float) -> None:
        self._loop = asyncio.new_event_loop()
        self._over = asyncio.Event()
        self._members = [
            _Member(port, secret, f"n{number}", cores, beat) for number in range(count)
        ]
        self._thread = threading.Thread(target=self._play, name="crowd")

    def start(self) -> None:
        """Link up."""
        self._thread.start()

    def free(self) -> None:
        """Let all tasks end, those that come included."""
        for member in self._members:
            self._loop.call_soon_threadsafe(member.free)

    def stop(self) -> None:
        """Leave."""
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(60)

    def _play(self) -> None:
        self._loop.run_until_complete(self._play_all())
        self._loop.close()

    async def _play_all(self) -> None:
        playing = [asyncio.ensure_future(member.play()) for member in self._members]
        await self._over.wait()
        for one in playing:
            one.cancel()
        await asyncio.gather(*playing, return_exceptions=True)


class _Member:
    def __init__(self, port: int, secret: str, name: str, cores: int, beat: float) -> None:
        self._request = link_request(port, secret, name)
        self._name = name
        self._cores = cores
        self._beat = beat
        self._keeps = True
        self._tasks: dict[int, Launch] = {}
        self._socket: WebSocketClientConnection | None = None

    async def play(self) -> None:
        while True:
            try:
                await self._session()
            except OSError:
                await asyncio.sleep(_PAUSE)

    def free(self) -> None:
        self._keeps = False
        for task_id in list(self._tasks):
            self._say(completed(task_id))

    async def _session(self) -> None:
        socket = await websocket_connect(self._request)
        self._socket = socket
        uid = f"uid of {self._name}"
        await socket.write_message(
            encode(hello(node_info(range(self._cores)), uid=uid)), binary=True
        )
        beating = asyncio.ensure_future(self._beat_on())
        try:
            while (frame := await socket.read_message()) is not None:
                for message in messages_from_host(frame):  # type: ignore[arg-type]
                    self._answer(message)
        finally:
            beating.cancel()
            self._socket = None
            socket.close()
        await asyncio.sleep(_PAUSE)

    async def _beat_on(self) -> None:
        while True:
            await asyncio.sleep(self._beat)
            self._say(Heartbeat(metrics=Metrics(cpu_percent=1.5)))

    def _answer(self, message: Message) -> None:
        match message:
            case Welcome():
                known = [
                    Known(
                        task_id=task_id,
                        spec=launch.spec,
                        placement=launch.placement,
                        origin=launch.origin,
                        started_at=1.0,
                    )
                    for task_id, launch in self._tasks.items()
                ]
                self._say(*known, KnownEnd())
            case Launch(task_id=task_id):
                self._tasks[task_id] = message
                self._say(started(task_id))
                if message.spec.command != KEEP or not self._keeps:
                    self._say(completed(task_id))
            case Kill(task_id=task_id):
                self._say(completed(task_id))
            case Acknowledge(task_id=task_id):
                self._tasks.pop(task_id, None)
            case _:
                pass

    def _say(self, *messages: Message) -> None:
        if self._socket is not None:
            for message in messages:
                self._socket.write_message(encode(message), binary=True)
