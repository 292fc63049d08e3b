"""The ``process`` launcher: the runner's end of the keeper's socket.

Needs no root and no systemd. The keeper is started when nobody listens, and outlives the runner.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import sys
from asyncio.subprocess import DEVNULL, PIPE
from typing import TYPE_CHECKING

import msgspec

from hakuriver.errors import StartError
from hakuriver.runner.exits import ExitFile, ExitRecord
from hakuriver.runner.launchers import keeper
from hakuriver.runner.launchers.base import Running, StartOrder, Watcher
from hakuriver.runner.launchers.minder import EXITS
from hakuriver.runner.launchers.survivors import end_survivors

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_log = logging.getLogger(__name__)

_PATIENCE = 15.0
_LAST_WORD = 2.0
_MAX_LINE = 64 << 20
_BLOCK = 64 << 10
#: What the keeper has of the runner's environment: what its interpreter may need and, when the
#: runner is in a task itself, the mark by which it is found should that task's own keeper die.
_KEPT = ("PATH", "LANG", "LD_LIBRARY_PATH", "HAKURIVER_TASK_ID")


class _Event(msgspec.Struct):
    """Any line that the keeper says."""

    event: str
    id: int = 0
    pid: int = 0
    protocol: int = 0
    start: int = 0
    started_at: float = 0.0
    record: ExitRecord | None = None
    tasks: list[Running] = []
    coming: list[int] = []
    reason: str = ""


_decoder = msgspec.json.Decoder(_Event)
_Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def connect(folder: Path) -> _Streams | None:
    """Return streams to the keeper of `folder`; None when none listens there."""
    try:
        descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        # By the descriptor: a socket's path must be shorter than many folders' are.
        path = f"/proc/self/fd/{descriptor}/keeper.sock"
        return await asyncio.open_unix_connection(path, limit=_MAX_LINE)
    except (FileNotFoundError, ConnectionError):
        return None
    finally:
        os.close(descriptor)


def keeper_lives(folder: Path) -> bool:
    """Whether a keeper listens in `folder`: without a runner it stays only while tasks run."""
    with socket.socket(socket.AF_UNIX) as peer:
        try:
            descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            peer.connect(f"/proc/self/fd/{descriptor}/keeper.sock")
        except (FileNotFoundError, ConnectionError):
            return False
        finally:
            os.close(descriptor)
    return True


def _environment() -> Mapping[str, str]:
    """Return the keeper's environment: none of the runner's secrets, which may stand in its own.

    Tasks are given theirs whole, and inherit nothing of this one.
    """
    return {name: os.environ[name] for name in _KEPT if name in os.environ}


async def start_keeper(folder: Path, *, python: str) -> None:
    """Start a keeper and return when its socket listens, or another keeper has the folder."""
    command = (python, "-I", "-S", keeper.__file__, str(folder))
    process = await asyncio.create_subprocess_exec(
        *command, stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE, cwd="/", env=_environment()
    )
    _, words = await process.communicate()
    if process.returncode == keeper.EXIT_TAKEN:
        await asyncio.sleep(0.02)  # it is just ending, or just starting
    elif process.returncode != 0:
        last = words.decode(errors="replace").strip().rpartition("\n")[2]
        raise StartError(f"the keeper in {folder} did not start: {last}")


async def shut_down(folder: Path, *, grace: float) -> None:
    """End all tasks of the keeper in `folder` and then the keeper; return when it is gone."""
    streams = await connect(folder)
    if streams is None:
        return
    reader, writer = streams
    writer.write(msgspec.json.encode({"request": "shutdown", "grace": grace}) + b"\n")
    with contextlib.suppress(ConnectionError):
        while await reader.readline():
            pass
    writer.close()


class ProcessLauncher:
    """Tasks under one keeper, which lives in `folder`."""

    def __init__(self, folder: Path, *, python: str = sys.executable) -> None:
        self._folder = folder
        self._python = python
        self._watcher: Watcher | None = None
        self._writer: asyncio.StreamWriter | None = None
        # A reader whose keeper died may still be ending survivors when the next one begins.
        self._readers: set[asyncio.Task[None]] = set()
        self._connecting = asyncio.Lock()
        #: Set when the keeper has answered what was asked last.
        self._listed = asyncio.Event()
        #: Every task handed to the present keeper and not over; None until it is known to run.
        self._tasks: dict[int, Running | None] = {}

    @property
    def exits(self) -> ExitFile:
        """The records that the minders write."""
        return ExitFile(self._folder / EXITS)

    def unit_of(self, task_id: int) -> None:
        """Return None: these tasks have no units."""

    async def open(self, watcher: Watcher) -> Mapping[int, Running | None]:
        """Connect to the keeper, starting one if need be; return the tasks that it watches."""
        self._watcher = watcher
        await self._connected()
        return dict(self._tasks)

    async def start(self, order: StartOrder) -> None:
        """Have the keeper start a task; raise `StartError` when there can be no keeper."""
        writer = await self._connected()
        self._tasks.setdefault(order.id, None)
        line = b'{"request":"start",' + msgspec.json.encode(order)[1:] + b"\n"
        await self._send(writer, line)

    async def kill(self, task_id: int, *, grace: float) -> None:
        """Have the keeper end the task's tree; one that it does not know is over already."""
        writer = await self._connected()
        request = {"request": "kill", "id": task_id, "grace": grace}
        await self._send(writer, msgspec.json.encode(request) + b"\n")

    async def end_survivors(self, tasks: Mapping[int, Running | None]) -> None:
        """End what is left of tasks whose keeper died."""
        if tasks:
            await asyncio.to_thread(end_survivors, tasks)

    async def close(self) -> None:
        """Leave the keeper, when it has heard all that was said; it stays while tasks run."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORD):
                await self._heard()
        readers = list(self._readers)
        for reader in readers:
            reader.cancel()
        if readers:
            await asyncio.wait(readers)
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    async def _heard(self) -> None:
        """Return when the keeper has taken in every request before this one."""
        if self._writer is not None:
            self._listed.clear()
            await self._send(self._writer, b'{"request":"list"}\n')
            await self._listed.wait()

    async def _send(self, writer: asyncio.StreamWriter, line: bytes) -> None:
        # What was on its way to a keeper that died is told by `vanished`.
        with contextlib.suppress(ConnectionError):
            writer.write(line)
            await writer.drain()

    async def _connected(self) -> asyncio.StreamWriter:
        if self._writer is not None:
            return self._writer
        async with self._connecting:
            if self._writer is None:
                try:
                    async with asyncio.timeout(_PATIENCE):
                        await self._connect()
                except TimeoutError:
                    raise StartError(f"the keeper in {self._folder} does not answer") from None
            assert self._writer is not None  # noqa: S101 - told to the type checker
            return self._writer

    async def _connect(self) -> None:
        """Connect and learn what runs; a keeper that is just ending is replaced."""
        while True:
            streams = await connect(self._folder)
            if streams is not None and (listed := await self._greet(*streams)) is not None:
                break
            await start_keeper(self._folder, python=self._python)
        reader, self._writer = streams
        self._tasks = listed
        reading = asyncio.create_task(self._read(reader), name="keeper events")
        self._readers.add(reading)
        reading.add_done_callback(self._readers.discard)

    async def _greet(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> dict[int, Running | None] | None:
        with contextlib.suppress(ConnectionError):
            writer.write(b'{"request":"list"}\n')
            while line := await reader.readline():
                event = _decoder.decode(line)
                if event.event == "hello" and event.protocol != keeper.PROTOCOL:
                    raise StartError(
                        f"the keeper in {self._folder} is of another version (pid {event.pid}): "
                        "let its tasks end, then start the runner again"
                    )
                if event.event == "listed":
                    known: dict[int, Running | None] = {task.id: task for task in event.tasks}
                    return known | dict.fromkeys(event.coming)
        writer.close()
        return None

    async def _read(self, reader: asyncio.StreamReader) -> None:
        rest = b""
        try:
            while data := await reader.read(_BLOCK):
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    self._hear(_decoder.decode(line))
        except (ConnectionError, ValueError) as error:
            _log.warning("lost the keeper in %s: %s", self._folder, error)
        await self._bereaved()

    async def _bereaved(self) -> None:
        """The keeper is gone: end what it watched, then tell."""
        tasks, self._tasks = self._tasks, {}
        self._listed.set()
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        if tasks:
            _log.error("the keeper in %s ended while tasks ran: %s", self._folder, sorted(tasks))
            await self.end_survivors(tasks)
        if self._watcher is not None:
            self._watcher.vanished(tasks)

    def _hear(self, event: _Event) -> None:
        watcher = self._watcher
        assert watcher is not None  # noqa: S101 - nothing is read before `open`
        if event.event == "started":
            running = Running(
                id=event.id, pid=event.pid, start=event.start, started_at=event.started_at
            )
            self._tasks[event.id] = running
            watcher.started(running)
        elif event.event in ("finished", "unknown"):
            # What the keeper does not know was never started, or is over: its record tells.
            self._tasks.pop(event.id, None)
            watcher.finished(event.id, event.record)
        elif event.event == "listed":
            self._listed.set()
        elif event.event == "error":
            _log.error("the keeper refused a request: %s", event.reason)
