"""An agent in this process with a host that a test plays, for the tests of a runner as a whole."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import sys
from typing import TYPE_CHECKING, Any

from hakuriver.logfiles import TaskFiles
from hakuriver.model.messages import Finished, Heartbeat, Hello, Started
from hakuriver.model.nodes import Capabilities, NodeInfo
from hakuriver.runner.agent import Agent, AgentSettings
from hakuriver.runner.environment import Surroundings
from hakuriver.runner.launchers.process import ProcessLauncher
from hakuriver.runner.state import StateFolder
from support.runner_host import FakeHost, fake_host
from support.runner_tools import end_keeper, keeper_pid

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from hakuriver.model.tasks import Exit

INFO = NodeInfo(
    version="0",
    launcher="process",
    cpus=(0,),
    memory_bytes=1 << 30,
    capabilities=Capabilities(private_network="not here", private_pid="nor this"),
)


class Node:
    """A runner in this process, its folder, and how to stop it as a crash would."""

    def __init__(self, host: FakeHost, root: Path) -> None:
        self.host = host
        self.state = StateFolder(root)
        self.state.make()
        self.files = TaskFiles(root)
        self._agent: Agent | None = None
        self.running: asyncio.Task[None] | None = None

    async def up(self, **changes: Any) -> None:
        around = Surroundings(
            node="n1",
            home="/",
            user="u",
            path=os.environ["PATH"],
            temp_dir="/tmp",
            python=sys.executable,
            work_root=self.state.work,
        )
        settings = AgentSettings(
            name="n1",
            url=f"http://127.0.0.1:{self.host.port}",
            token="t0ken",
            info=INFO,
            around=around,
            grace=1.0,
        )
        settings = dataclasses.replace(settings, **changes)
        self._agent = await Agent.open(
            settings,
            state=self.state,
            files=self.files,
            launcher=ProcessLauncher(self.state.keeper),
        )
        self.running = asyncio.create_task(self._agent.run())

    async def linked(self, **changes: Any) -> int:
        """Wait for a whole exchange; return where in `host.said` it began."""
        before = len(self.host.said)
        await self.up(**changes)
        # A last word of the session before may still come in.
        hello = await self.host.wait_for(Hello, since=before)
        begin = self.host.said.index(hello, before)
        await self.host.wait_for(Heartbeat, since=begin)
        return begin

    async def down(self) -> None:
        if self.running is not None:
            self.running.cancel()
            await asyncio.wait([self.running])
        if self._agent is not None:
            await self._agent.close()
        self._agent = self.running = None

    def out(self, task_id: int) -> bytes:
        return self.files.log(task_id, "stdout").read_bytes()


@contextlib.asynccontextmanager
async def one_node(root: Path) -> AsyncIterator[tuple[FakeHost, Node]]:
    async with fake_host() as host:
        node = Node(host, root / "state")
        try:
            yield host, node
        finally:
            await node.down()
            pid = keeper_pid(node.state.keeper)
            if pid is not None:
                await asyncio.to_thread(end_keeper, node.state.keeper, pid)


async def ended(host: FakeHost, task_id: int, **how: Any) -> Exit:
    message = await host.wait_for(Finished, lambda it: it.task_id == task_id, **how)
    return message.exit


async def began(host: FakeHost, task_id: int) -> Started:
    return await host.wait_for(Started, lambda it: it.task_id == task_id)
