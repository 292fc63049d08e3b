"""A runner that starts nothing: it links up with a real host and answers as if it did."""

from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from tornado.httpclient import HTTPRequest
from tornado.websocket import WebSocketClientConnection, websocket_connect

from hakuriver.model.auth import runner_token
from hakuriver.model.messages import (
    Heartbeat,
    Kill,
    KnownEnd,
    Launch,
    LaunchWaiting,
    LogChunk,
    LogEnd,
    LogOpen,
    LogOpened,
    Message,
    Welcome,
    encode,
    messages_from_host,
)
from hakuriver.model.nodes import Metrics
from hakuriver.model.tasks import TaskState
from support.host_world import completed, hello, node_info, started
from support.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.harness import Cluster

#: A task of this command seems to run until it is killed.
KEEP = "keep"
LOG = b"a log\n"
_BEAT = 1.0


@contextmanager
def played_runner(cluster: Cluster, name: str = "n", cores: int = 8) -> Iterator[None]:
    """Keep a node of this name linked, from a thread of its own; no program is ever started."""
    over = asyncio.Event()
    linked = threading.Event()
    loop = asyncio.new_event_loop()
    player = _Player(cluster, name, cores, linked)

    def play() -> None:
        loop.run_until_complete(player.play(over))
        loop.close()

    thread = threading.Thread(target=play, name="played runner")
    thread.start()
    try:
        assert linked.wait(30), "the played runner did not link up"
        cluster_online(cluster, name)
        yield
    finally:
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(over.set)
        thread.join(30)
        assert not thread.is_alive()
    assert player.trouble is None, player.trouble


def link_request(port: int, secret: str, name: str) -> HTTPRequest:
    """Return what opens the link of a runner to the host at `port`."""
    return HTTPRequest(
        f"ws://127.0.0.1:{port}/api/runner?name={name}",
        headers={"Authorization": f"Bearer {runner_token(secret, name)}"},
    )


def cluster_online(cluster: Cluster, name: str) -> None:
    """Wait until the host shows a node as online."""
    wait_until(lambda: cluster.node_status(name) == "online", what=f"{name} online")


class _Player:
    def __init__(self, cluster: Cluster, name: str, cores: int, linked: threading.Event) -> None:
        self._cluster = cluster
        self._name = name
        self._cores = cores
        self._linked = linked
        self.trouble: str | None = None

    async def play(self, over: asyncio.Event) -> None:
        secret = self._cluster.runner_secret
        socket = await websocket_connect(link_request(self._cluster.port, secret, self._name))
        await self._say(socket, hello(node_info(range(self._cores))))
        ending = asyncio.ensure_future(over.wait())
        reading = asyncio.ensure_future(socket.read_message())
        while not ending.done():
            await asyncio.wait(
                {reading, ending}, timeout=_BEAT, return_when=asyncio.FIRST_COMPLETED
            )
            if not reading.done():
                await self._say(socket, Heartbeat(metrics=Metrics(cpu_percent=1.5)))
                continue
            frame = reading.result()
            if frame is None:
                self.trouble = f"the host closed the link: {socket.close_reason}"
                break
            for message in messages_from_host(frame):  # type: ignore[arg-type]
                await self._answer(socket, message)
            reading = asyncio.ensure_future(socket.read_message())
        ending.cancel()
        socket.close()
        await reading

    async def _answer(self, socket: WebSocketClientConnection, message: Message) -> None:
        match message:
            case Welcome():
                await self._say(socket, KnownEnd(), Heartbeat(metrics=Metrics(cpu_percent=1.5)))
                self._linked.set()
            case Launch(task_id=task_id) | LaunchWaiting(task_id=task_id):
                await self._say(socket, started(task_id))
                if not isinstance(message, Launch) or message.spec.command != KEEP:
                    await self._say(socket, completed(task_id))
            case Kill(task_id=task_id):
                end = completed(task_id, status=TaskState.KILLED, exit_code=-15)
                await self._say(socket, end)
            case LogOpen(subscription=number, limit=limit):
                data = LOG[:limit]
                await self._say(
                    socket,
                    LogOpened(subscription=number, size=len(LOG), offset=0),
                    LogChunk(subscription=number, offset=0, data=data),
                    LogEnd(subscription=number, size=len(LOG)),
                )
            case _:
                pass

    async def _say(self, socket: WebSocketClientConnection, *messages: Message) -> None:
        for message in messages:
            await socket.write_message(encode(message), binary=True)
