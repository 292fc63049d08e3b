"""The runner put together: link, journal, launcher and logs, and who hears what."""

from __future__ import annotations

import asyncio
import logging
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import msgspec

from hakuriver._version import __version__
from hakuriver.errors import HostUnreachable
from hakuriver.model.messages import (
    MAX_FRAME,
    PROTOCOL,
    Acknowledge,
    Discard,
    FromHost,
    Hello,
    Kill,
    Known,
    Launch,
    LaunchWaiting,
    LogClose,
    LogCredit,
    LogOpen,
    Message,
    Welcome,
    encode,
)
from hakuriver.runner.discarding import Discarding
from hakuriver.runner.journal import Journal
from hakuriver.runner.link import Link
from hakuriver.runner.logcaps import LogCaps
from hakuriver.runner.metrics import Gauge, Meter
from hakuriver.runner.probe import SYSFS
from hakuriver.runner.starting import Starter
from hakuriver.runner.state import Identity, StateFolder, boot_id
from hakuriver.runner.supervision import Supervision
from hakuriver.runner.tail import Tail
from hakuriver.runner.watches import Watches

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable
    from pathlib import Path

    from hakuriver.logfiles import TaskFiles
    from hakuriver.model.nodes import NodeInfo
    from hakuriver.runner.environment import Surroundings
    from hakuriver.runner.launchers.base import Launcher

_log = logging.getLogger(__name__)

_FETCHES = 3
_FETCH_PAUSE = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSettings:
    """Everything an `Agent` is made from; `url` is the host's, `grace` in seconds.

    `numactl` is the program that binds tasks to NUMA nodes, None if the launcher itself does;
    `sysfs` is where the machine's use is read. `pins` and `writes_scripts` are those of `Starter`,
    `trust` is that of `Link`, `max_log_bytes` the cap of `LogCaps`, None for none.
    """

    name: str
    url: str
    token: str = field(repr=False)
    info: NodeInfo
    around: Surroundings
    grace: float
    numactl: str | None = None
    sysfs: Path = SYSFS
    pins: bool = True
    writes_scripts: bool = True
    trust: ssl.SSLContext | None = None
    max_log_bytes: int | None = None


class Agent:
    """One runner at work; make it with `open`, let it `run`, then `close` it."""

    def __init__(
        self,
        settings: AgentSettings,
        *,
        state: StateFolder,
        files: TaskFiles,
        launcher: Launcher,
        journal: Journal,
        identity: Identity,
    ) -> None:
        self._settings = settings
        self._state = state
        self._launcher = launcher
        self._journal = journal
        self._identity = identity
        self._boot_id = boot_id()
        self._session = uuid.uuid4().hex
        self._gauge = Gauge(Meter(settings.info.numa_topology, sysfs=settings.sysfs).read)
        self._link = Link(
            url=settings.url,
            name=settings.name,
            token=settings.token,
            user=self,
            measure=self._gauge.latest,
            trust=settings.trust,
        )
        starter = Starter(
            files=files,
            around=settings.around,
            info=settings.info,
            numactl=settings.numactl,
            grace=settings.grace,
            pins=settings.pins,
            writes_scripts=settings.writes_scripts,
        )
        self._tasks = Supervision(
            journal=journal,
            launcher=launcher,
            starter=starter,
            boot_id=self._boot_id,
            grace=settings.grace,
            tell=self._link.send,
            ended=self._task_ended,
        )
        self._discarding = Discarding(
            files=files,
            work_root=settings.around.work_root,
            is_kept=self._tasks.is_kept,
            tell=self._link.send,
        )
        cap = settings.max_log_bytes
        self._caps = (
            LogCaps(files=files, cap=cap, live=self._tasks.running, over=self._tasks.end_by_itself)
            if cap is not None
            else None
        )
        self._capping: asyncio.Task[None] | None = None
        self._tail = Tail(files, is_live=self._tasks.is_live, send=self._link.send)

    @classmethod
    async def open(
        cls,
        settings: AgentSettings,
        *,
        state: StateFolder,
        files: TaskFiles,
        launcher: Launcher,
    ) -> Self:
        """Read the journal, find what runs, and return the agent, not linked yet.

        Raises:
            StartError: the keeper cannot be had.
        """
        identity = await asyncio.to_thread(state.identity)
        await asyncio.to_thread(files.make)
        await asyncio.to_thread(Watches.prepare)
        journal = await Journal.open(state.journal)
        agent = cls(
            settings,
            state=state,
            files=files,
            launcher=launcher,
            journal=journal,
            identity=identity,
        )
        try:
            await agent._tasks.recover()
        except BaseException:
            await agent.close()
            raise
        return agent

    async def run(self) -> None:
        """Serve the host until cancelled; raise `StartError` when it refuses this runner."""
        if self._caps is not None:
            self._capping = asyncio.create_task(self._caps.run(), name="log caps")
        await self._link.run()

    async def close(self) -> None:
        """Let everything go; tasks go on under their keeper."""
        if self._capping is not None:
            self._capping.cancel()
        await self._tail.close_all()
        await self._discarding.close()
        await self._tasks.close()
        await self._launcher.close()
        self._gauge.close()
        await self._journal.close()

    # What the link asks and tells

    def hello(self) -> Hello:
        """Return the first word of a session."""
        return Hello(
            protocol=PROTOCOL,
            node_uid=self._identity.node_uid,
            boot_id=self._boot_id,
            session=self._session,
            cluster_id=self._identity.cluster_id,
            info=self._settings.info,
        )

    async def welcomed(self, welcome: Welcome) -> None:
        """Keep the cluster's id, so that this runner is never taken for another cluster's."""
        if welcome.version != __version__:
            _log.warning(
                "the host is hakuriver-jupyter %s, this runner %s: they work together; upgrade "
                "first the host, then the runners",
                welcome.version,
                __version__,
            )
        if welcome.cluster_id != self._identity.cluster_id:
            self._identity = Identity(
                node_uid=self._identity.node_uid, cluster_id=welcome.cluster_id
            )
            await asyncio.to_thread(self._state.remember, self._identity)

    def known(self) -> tuple[Iterable[Message], Iterable[Message]]:
        """Return what the host must know of all tasks."""
        known, after = self._tasks.known()
        return [_fitting(message) for message in known], after

    def received(self, message: FromHost) -> None:
        """Hand a message to whom it concerns."""
        match message:
            case Launch():
                self._tasks.launch(message)
            case LaunchWaiting():
                self._tasks.fetch_and_launch(message.task_id, self._fetch)
            case Kill():
                self._tasks.kill(message.task_id)
            case Acknowledge():
                self._tasks.acknowledge(message.task_id)
            case Discard():
                self._discarding.discard(message.task_ids)
            case LogOpen():
                self._tail.open(message)
            case LogCredit():
                self._tail.credit(message)
            case LogClose():
                self._tail.close(message)
            case _:
                _log.warning("the host said %s out of turn", type(message).__name__)

    async def unlinked(self) -> None:
        """Drop the logs that the lost session read."""
        await self._tail.close_all()

    async def _fetch(self, task_id: int) -> Launch:
        for _ in range(_FETCHES - 1):
            try:
                return await self._link.fetch_launch(task_id)
            except HostUnreachable as error:
                _log.warning("%s, trying again", error)
                await asyncio.sleep(_FETCH_PAUSE)
        return await self._link.fetch_launch(task_id)

    def _task_ended(self, task_id: int) -> None:
        self._tail.ended(task_id)


def _fitting(message: Message) -> Message:
    """Return `message` without the script, or else the arguments, that would not fit in a frame.

    The host compares the rest with what it knows, so no more is left out than must be.
    """
    if not isinstance(message, Known) or len(encode(message)) <= MAX_FRAME:
        return message
    spec = msgspec.structs.replace(message.spec, script=b"" if message.spec.script else None)
    shorter = msgspec.structs.replace(message, spec=spec)
    if len(encode(shorter)) <= MAX_FRAME:
        return shorter
    return msgspec.structs.replace(
        shorter, spec=msgspec.structs.replace(spec, arguments=(), env_vars={})
    )
