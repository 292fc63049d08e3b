"""A host that can be killed between any two steps: the real one, on a real database."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any
from unittest import mock

from hakuriver.config import Config, Security
from hakuriver.errors import HakuRiverError
from hakuriver.host.auth import Gate
from hakuriver.host.cluster import Cluster
from hakuriver.host.exchange import sweep
from hakuriver.host.logs import Subscriptions
from hakuriver.host.services import Services
from hakuriver.host.store import Store, store, writer
from hakuriver.host.submission import Submission
from hakuriver.host.tally import QUICK, SIZES, Histogram
from hakuriver.model.submission import SubmitRequest
from support.modelled.loop import Here
from support.modelled.wires import HostEnd, Pipe

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from pathlib import Path

_CONFIG = Config(security=Security(runner_secret="s", tokens={"alice": "t"}))
_SILENCE = 30.0
# Turns of the loop for which a commit takes.
_SLOWNESS = 4


class _Writer(writer.Writer):
    """Commits in the loop's own thread, some turns after it was asked to: a disk is slow."""

    def __init__(self, database: Any) -> None:
        self._database = database
        self._gathered = []
        self._groups: list[list[writer._Operation[Any]]] = []
        self.dead = False
        self.seconds, self.changes = Histogram(QUICK), Histogram(SIZES)
        self.failures = 0

    def _hand_over(self) -> None:
        if self._gathered and not self.dead:
            self._groups.append(self._gathered)
            self._gathered = []
            self._next(_SLOWNESS)

    def _next(self, turns: int) -> None:
        if turns:
            asyncio.get_running_loop().call_soon(self._next, turns - 1)
        elif not self.dead:
            self._commit(self._groups.pop(0))

    def close(self) -> None:
        self.dead = True


class Host:
    """The host of one database, up or down."""

    def __init__(self, path: Path, spawn: Callable[[Coroutine[Any, Any, None]], Any]) -> None:
        self.path = path
        self._spawn = spawn
        self.cluster: Cluster | None = None
        self._services: Services | None = None
        self._asked: set[asyncio.Task[None]] = set()
        #: The ids that clients have received, and those whose kill was answered.
        self.received: set[int] = set()
        self.killed: set[int] = set()
        #: In which batch each of the former was said to be.
        self.batches: dict[int, int] = {}

    @property
    def is_up(self) -> bool:
        return self._services is not None

    def start(self, run: Callable[[Coroutine[Any, Any, None]], None]) -> None:
        assert not self.is_up
        # What a power cut would do to the file is not asked here, and syncing is slow.
        pragmas = {**store._PRAGMAS, "synchronous": "off", "secure_delete": 0}
        with (
            mock.patch.object(store, "Writer", _Writer),
            mock.patch.object(store, "_PRAGMAS", pragmas),
            mock.patch.object(store, "ThreadPoolExecutor", return_value=Here()),
        ):
            opened = Store(self.path, cluster_id="cluster")
        self.cluster = Cluster(opened)
        run(self.cluster.load())
        self._services = Services(
            _CONFIG, Gate(_CONFIG), self.cluster, Subscriptions(self.cluster.tally)
        )

    def crash(self) -> None:
        """Be killed: what is not committed by now is lost, and so is whatever was under way."""
        assert self.cluster is not None
        opened = self.cluster.store
        opened._writer.close()
        for task in (*self._asked, *self.cluster._running):
            task.cancel()
        opened._database.close()
        os.close(opened._lock)
        self.cluster = self._services = None
        self._asked.clear()

    def accept(self, pipe: Pipe) -> None:
        assert self._services is not None
        pipe.host = HostEnd(pipe, self._services)

    def _ask(self, work: Coroutine[Any, Any, None]) -> None:
        async def asked() -> None:
            try:
                await work
            except HakuRiverError:
                return

        task = self._spawn(asked())
        self._asked.add(task)
        task.add_done_callback(self._asked.discard)

    def submit(self, targets: list[str] | None, *, joins: bool = False, **fields: Any) -> None:
        """Submit for each target, where `joins` into the batch of the newest task."""
        cluster = self.cluster
        assert cluster is not None
        batch = str(self.batches[max(self.batches)]) if joins and self.batches else None

        async def submit() -> None:
            request = SubmitRequest(command="true", targets=targets, batch_id=batch, **fields)
            reply = await Submission(cluster, request, "alice").submit()
            assert batch in (None, reply.batch_id)
            ids = list(map(int, reply.task_ids))
            self.batches |= dict.fromkeys(ids, int(reply.batch_id))
            self.received.update(ids)

        self._ask(submit())

    def kill(self, task_id: int) -> None:
        cluster = self.cluster
        assert cluster is not None

        async def kill() -> None:
            self.killed.add(task_id)
            await cluster.kill(task_id)

        self._ask(kill())

    def miss(self, name: str) -> None:
        """Find that a node has been silent for too long."""
        cluster = self.cluster
        assert cluster is not None
        node = cluster.nodes.find(name)
        if node is not None:
            node.heard -= 10 * _SILENCE
            self._ask(sweep(cluster, _SILENCE))

    # The file itself, asked apart from whoever uses it

    def rows(self) -> dict[int, tuple[str, int | None, str | None]]:
        """Return what the database holds of each task: status, exit code, node."""
        with closing(sqlite3.connect(self.path)) as database:
            query = "SELECT id, status, exit_code, node FROM task"
            return {row[0]: (row[1], row[2], row[3]) for row in database.execute(query)}

    def batches_on_disk(self) -> dict[int, int]:
        """Return the batch of each task that the database holds."""
        with closing(sqlite3.connect(self.path)) as database:
            return dict(database.execute("SELECT id, batch_id FROM task"))

    def copy_to(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        with closing(sqlite3.connect(self.path)) as database:
            database.execute("VACUUM INTO ?", (str(path),))

    def restore(self, path: Path) -> None:
        for file in self._files():
            file.unlink()
        shutil.copy(path, self.path)

    def _files(self) -> Iterator[Path]:
        for ending in ("", "-wal", "-shm"):
            file = self.path.with_name(self.path.name + ending)
            if file.exists():
                yield file
