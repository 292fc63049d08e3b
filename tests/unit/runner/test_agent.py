from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import logging
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from hakuriver.errors import StartError
from hakuriver.logfiles import TaskFiles
from hakuriver.model.messages import (
    MAX_FRAME,
    PROTOCOL,
    Acknowledge,
    Discard,
    Discarded,
    Finished,
    Heartbeat,
    Hello,
    Kill,
    Known,
    KnownEnd,
    LogChunk,
    LogEnd,
    LogOpen,
    Outbox,
    Refuse,
    Started,
    encode,
)
from hakuriver.model.nodes import Capabilities, NodeInfo, NumaNode
from hakuriver.model.tasks import Exit, Origin, TaskState
from hakuriver.runner.agent import Agent, AgentSettings
from hakuriver.runner.environment import Surroundings
from hakuriver.runner.launchers.process import ProcessLauncher
from hakuriver.runner.state import StateFolder
from support.runner_host import FakeHost, fake_host
from support.runner_tools import (
    alive,
    end_keeper,
    eventually,
    keeper_pid,
    launch,
    records,
    task_tree,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

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


def fifo(root: Path) -> Path:
    path = root / "fifo"
    os.mkfifo(path)
    return path


@pytest.mark.asyncio
async def test_the_first_exchange_in_its_order(tmp_path: Path) -> None:
    async with one_node(tmp_path) as (host, node):
        await node.linked()
        hello, end, beat = host.said[:3]
        assert isinstance(hello, Hello)
        assert (hello.protocol, hello.info, hello.cluster_id) == (PROTOCOL, INFO, None)
        assert isinstance(end, KnownEnd)
        assert isinstance(beat, Heartbeat)
        assert host.tokens == ["Bearer t0ken"]
        await host.wait_for(Heartbeat, since=3)
        await node.down()
        begin = await node.linked()
        again = host.said[begin]
        assert isinstance(again, Hello)
        assert (again.node_uid, again.cluster_id) == (hello.node_uid, "c1")
        assert again.session != hello.session


@pytest.mark.asyncio
async def test_a_task_from_launch_to_acknowledgement(tmp_path: Path) -> None:
    async with one_node(tmp_path) as (host, node):
        await node.linked()
        host.send(launch(1, "sh", "-c", "pwd; echo $HAKURIVER_TASK_ID $K", env_vars={"K": "s3c"}))
        told = await began(host, 1)
        assert told.stdout_path == str(node.files.log(1, "stdout"))
        end = await ended(host, 1)
        assert (end.status, end.exit_code, end.reason) == (TaskState.COMPLETED, 0, None)
        assert node.out(1) == f"{node.state.work}/1\n1 s3c\n".encode()
        assert records(node.state.exits)[1]["exit_code"] == 0
        host.send(Acknowledge(task_id=1))
        await eventually(lambda: b"s3c" not in node.state.journal.read_bytes())


@pytest.mark.asyncio
async def test_each_kind_of_script(tmp_path: Path) -> None:
    async with one_node(tmp_path) as (host, node):
        await node.linked()
        python = b"import sys; print(sys.argv[1:], 'ok')"
        host.send(
            launch(1, "", "a b", script=python),
            launch(2, "", "x", script=b"#!/bin/sh\necho $1 $0"),
            launch(3, "", "y", script=b"echo $1", interpreter=("sh", "-e")),
        )
        for number in (1, 2, 3):
            assert (await ended(host, number)).exit_code == 0
        assert node.out(1) == b"['a b'] ok\n"
        assert node.out(2) == f"x {node.files.script(2)}\n".encode()
        assert node.out(3) == b"y\n"
        assert node.files.script(2).stat().st_mode & 0o777 == 0o700


@pytest.mark.asyncio
async def test_a_repeated_launch_starts_nothing(tmp_path: Path) -> None:
    async with one_node(tmp_path) as (host, node):
        await node.linked()
        gate = fifo(tmp_path)
        message = launch(1, "sh", "-c", f"echo once; read x < {gate}")
        host.send(message, message)
        await began(host, 1)
        mark = len(host.said)
        host.send(message)
        await host.wait_for(Started, since=mark)
        await asyncio.to_thread(gate.write_text, "go\n")
        await ended(host, 1)
        mark = len(host.said)
        host.send(message)
        await ended(host, 1, since=mark)
        assert node.out(1) == b"once\n"


@pytest.mark.asyncio
async def test_a_failed_start_says_why(tmp_path: Path) -> None:
    async with one_node(tmp_path) as (host, node):
        await node.linked()
        host.send(
            launch(1, "no-such-program"),
            launch(2, "true", working_directory="/no/such"),
            launch(3, "true", use_private_network=True),
            launch(4, "true", use_private_pid=True),
            launch(5, "true", numa_node=7),
        )
        end = await ended(host, 1)
        assert (end.status, end.exit_code) == (TaskState.FAILED, 127)
        assert "no-such-program" in str(end.reason)
        assert "/no/such" in str((await ended(host, 2)).reason)
        assert (await ended(host, 3)).reason == "this node cannot give a private network: not here"
        assert (
            await ended(host, 4)
        ).reason == "this node cannot give private process ids: nor this"
        assert (await ended(host, 5)).reason == "this node has no NUMA node 7"
        assert not [message for message in host.said if isinstance(message, Started)]


@pytest.mark.asyncio
async def test_a_kill_of_a_running_task(tmp_path: Path) -> None:
    async with one_node(tmp_path) as (host, node):
        await node.linked()
        host.send(launch(1, "sh", "-c", "setsid sleep 1000 & echo $$; sleep 1000"))
        await began(host, 1)
        await eventually(lambda: node.out(1).endswith(b"\n"))
        tree = task_tree(int(node.out(1)), 3)
        host.send(Kill(task_id=1))
        end = await ended(host, 1)
        assert end.status is TaskState.KILLED
        assert not [pid for pid in tree if alive(pid)]
        mark = len(host.said)
        host.send(Kill(task_id=1))
        assert await ended(host, 1, since=mark) == end


@pytest.mark.asyncio
async def test_a_kill_before_the_launch_means_it_never_runs(tmp_path: Path) -> None:
    async with one_node(tmp_path) as (host, node):
        await node.linked()
        host.send(Kill(task_id=1))
        assert (await ended(host, 1)).status is TaskState.KILLED
        await node.down()
        begin = await node.linked()
        assert (await ended(host, 1, since=begin)).status is TaskState.KILLED
        mark = len(host.said)
        host.send(launch(1, "touch", str(tmp_path / "ran")))
        assert (await ended(host, 1, since=mark)).status is TaskState.KILLED
        assert not (tmp_path / "ran").exists()
        host.send(Acknowledge(task_id=1))
        await eventually(lambda: node.state.journal.read_bytes() == b"")


@pytest.mark.asyncio
async def test_a_restarted_runner_tells_the_truth(tmp_path: Path) -> None:
    async with one_node(tmp_path) as (host, node):
        await node.linked()
        gate = fifo(tmp_path)
        origin = Origin(owner="alice", submitted_at=5.0, targeted=False, retry_of=9)
        stays = launch(1, "sh", "-c", f"echo a; read x < {gate}; echo b; exit 4", cpus=(0,))
        stays = msgspec.structs.replace(stays, origin=origin)
        host.send(stays, launch(2, "sh", "-c", "exit 3"))
        told = await began(host, 1)
        await ended(host, 2)
        await node.down()
        begin = await node.linked()
        known = {m.task_id: m for m in host.said[begin:] if isinstance(m, Known)}
        kinds = [type(message) for message in host.said[begin:]]
        assert kinds[:5] == [Hello, Known, Known, KnownEnd, Heartbeat]
        assert set(known) == {1, 2}
        assert (known[1].spec, known[1].placement) == (stays.spec, stays.placement)
        assert known[1].origin == origin
        assert (known[1].started_at, known[1].exit) == (told.started_at, None)
        assert known[1].stdout_path == told.stdout_path
        assert known[2].exit
        assert known[2].exit.exit_code == 3
        await asyncio.to_thread(gate.write_text, "go\n")
        assert (await ended(host, 1, since=begin)).exit_code == 4
        assert node.out(1) == b"a\nb\n"


@pytest.mark.asyncio
async def test_what_ended_while_no_runner_watched(tmp_path: Path) -> None:
    async with one_node(tmp_path) as (host, node):
        await node.linked()
        gate = fifo(tmp_path)
        host.send(launch(1, "sh", "-c", f"read x < {gate}; kill -SEGV $$"))
        await began(host, 1)
        await node.down()
        await asyncio.to_thread(gate.write_text, "go\n")
        await eventually(lambda: 1 in records(node.state.exits))
        await node.linked()
        known = await host.wait_for(Known)
        assert known.exit
        assert known.exit.exit_code == -11


@pytest.mark.asyncio
async def test_the_keepers_death_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    async with one_node(tmp_path) as (host, node):
        await node.linked()
        host.send(launch(1, "sleep", "1000"))
        await began(host, 1)
        pid = keeper_pid(node.state.keeper)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        end = await ended(host, 1)
        assert (end.status, end.exit_code) == (TaskState.LOST, None)
        assert end.reason == "keeper ended, the exit of this task is unknown"
        host.send(launch(2, "true"))
        assert (await ended(host, 2)).exit_code == 0


@pytest.mark.asyncio
async def test_keeper_and_runner_dead_together(tmp_path: Path) -> None:
    async with one_node(tmp_path) as (host, node):
        await node.linked()
        host.send(launch(1, "sh", "-c", "echo $$; sleep 1000"))
        await began(host, 1)
        await eventually(lambda: node.out(1).endswith(b"\n"))
        pid = keeper_pid(node.state.keeper)
        await node.down()
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await eventually(lambda: not alive(pid))
        begin = await node.linked()
        known = await host.wait_for(Known, since=begin)
        assert known.exit
        assert (known.exit.status, known.exit.reason) == (TaskState.LOST, "exit record missing")
        assert not alive(int(node.out(1)))


@pytest.mark.asyncio
async def test_the_link_comes_back_by_itself(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with one_node(tmp_path) as (host, node):
        port = host.port
        await host.stop()
        await node.up()  # before its host
        await eventually(lambda: "no link" in caplog.text)
        host.start(port)
        await host.wait_for(Heartbeat)
        host.drop()
        mark = len(host.said)
        await host.wait_for(Heartbeat, since=mark)
        assert host.sessions == 2
        assert caplog.text.count("no link") == 1
        assert "t0ken" not in caplog.text


@pytest.mark.asyncio
async def test_refusals(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with one_node(tmp_path) as (host, node):
        host.refusals = [Refuse(reason="the old one answers"), Refuse(reason="no", final=True)]
        await node.up()
        assert node.running is not None
        with pytest.raises(StartError, match="refuses this runner: no"):
            await node.running
        assert "the old one answers" in caplog.text


@pytest.mark.asyncio
async def test_a_token_that_is_not_accepted_says_how_to_mend_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with one_node(tmp_path) as (host, node):
        host.accepts = False
        await node.up()
        await eventually(lambda: "runner_secret" in caplog.text)
        host.accepts = True
        await host.wait_for(Heartbeat)
        assert "t0ken" not in caplog.text


@pytest.mark.asyncio
async def test_what_cannot_be_journaled_never_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    async with one_node(tmp_path) as (host, node):
        await node.linked()

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", full)
            host.send(launch(1, "touch", str(tmp_path / "ran")))
            end = await ended(host, 1)
        assert end.status is TaskState.FAILED
        assert "No space left" in str(end.reason)
        assert not (tmp_path / "ran").exists()
        host.send(launch(2, "true"))
        assert (await ended(host, 2)).exit_code == 0


@pytest.mark.asyncio
async def test_a_large_launch_is_fetched(tmp_path: Path) -> None:
    async with one_node(tmp_path) as (host, node):
        await node.linked()
        script = b"print('big')\n" + b"#" * (4 << 20)
        host.launch_later(launch(1, "", script=script))
        assert (await ended(host, 1)).exit_code == 0
        assert node.out(1) == b"big\n"
        assert set(host.tokens) == {"Bearer t0ken"}
        await node.down()
        begin = await node.linked()
        known = await host.wait_for(Known, since=begin)
        assert len(encode(known)) <= MAX_FRAME


@pytest.mark.asyncio
async def test_logs_are_followed_from_the_launch_to_the_end(tmp_path: Path) -> None:
    async with one_node(tmp_path) as (host, node):
        await node.linked()
        gate = fifo(tmp_path)
        host.send(
            launch(1, "sh", "-c", f"echo a; read x < {gate}; echo b"),
            LogOpen(subscription=1, task_id=1, stream="stdout", follow=True),
        )
        await host.wait_for(LogChunk, lambda chunk: chunk.data == b"a\n")
        await asyncio.to_thread(gate.write_text, "go\n")
        assert (await host.wait_for(LogEnd)).size == 4
        chunks = [message for message in host.said if isinstance(message, LogChunk)]
        assert b"".join(chunk.data for chunk in chunks) == b"a\nb\n"


@pytest.mark.asyncio
async def test_many_tasks_flow_at_once(tmp_path: Path) -> None:
    async with one_node(tmp_path) as (host, node):
        await node.linked()
        host.send(*(launch(number, "true") for number in range(100)))

        def over() -> set[int]:
            return {message.task_id for message in host.said if isinstance(message, Finished)}

        await eventually(lambda: len(over()) == 100, seconds=20)
        host.send(*(Acknowledge(task_id=number) for number in range(100)))
        await eventually(lambda: node.state.journal.read_bytes() == b"")
        await node.down()
        assert node.state.journal.read_bytes() == b""


@pytest.mark.asyncio
async def test_limits_hold_and_say_so(tmp_path: Path) -> None:
    async with one_node(tmp_path) as (host, node):
        await node.linked()
        grow = b"kept = b'x' * (120 << 20)\nimport time\ntime.sleep(60)"
        host.send(
            launch(1, "sleep", "1000", time_limit_seconds=0.2),
            launch(2, "", script=grow, required_memory_bytes=50 << 20),
            launch(3, "sleep", "0.1", required_memory_bytes=50 << 20, time_limit_seconds=30.0),
        )
        end = await ended(host, 1)
        assert (end.status, end.exit_code) == (TaskState.FAILED, -15)
        assert end.reason == "timeout: ran longer than 0.2 s"
        assert end.usage is None
        end = await ended(host, 2)
        assert (end.status, end.exit_code) == (TaskState.KILLED_OOM, -9)
        assert end.usage
        assert end.usage.peak_memory_bytes
        peak = end.usage.peak_memory_bytes / (1 << 20)
        assert peak > 50
        assert end.reason == f"memory limit exceeded: peak {peak:.2f} of 50.00 MiB"
        end = await ended(host, 3)
        assert (end.status, end.exit_code) == (TaskState.COMPLETED, 0)
        assert end.usage
        assert end.usage.peak_memory_bytes


@pytest.mark.asyncio
async def test_a_numa_target_binds_by_numactl_where_there_is_one(tmp_path: Path) -> None:
    topology = {"0": NumaNode(cores=(0,), memory_bytes=1), "1": NumaNode(cores=(), memory_bytes=1)}
    info = msgspec.structs.replace(INFO, numa_topology=topology)
    numactl = tmp_path / "numa ctl"
    numactl.write_text('#!/bin/sh\necho "$@"\n')
    numactl.chmod(0o700)
    async with one_node(tmp_path) as (host, node):
        await node.linked(info=info, numactl=str(numactl))
        host.send(
            launch(1, "/bin/true", "x", numa_node=0, cpus=(0, 2, 3)),
            launch(2, "/bin/true", numa_node=0),
            launch(3, "/bin/true", numa_node=1),
            launch(4, "no-such-program", numa_node=0),
            launch(5, "grep", "Cpus_allowed_list", "/proc/self/status", cpus=(0,)),
        )
        for number in (1, 2, 3, 5):
            assert (await ended(host, number)).exit_code == 0
        assert node.out(1) == b"--physcpubind=0,2-3 --membind=0 -- /bin/true x\n"
        assert node.out(2) == b"--physcpubind=0 --membind=0 -- /bin/true\n"
        assert node.out(3) == b"--membind=1 -- /bin/true\n"
        assert node.out(5).split() == [b"Cpus_allowed_list:", b"0"]
        assert (await ended(host, 4)).reason == "program not found: no-such-program"


@pytest.mark.asyncio
async def test_a_numa_target_without_cores_is_pinned_without_numactl_too(tmp_path: Path) -> None:
    cpu = max(os.sched_getaffinity(0))
    info = msgspec.structs.replace(
        INFO, numa_topology={"0": NumaNode(cores=(cpu,), memory_bytes=1)}
    )
    async with one_node(tmp_path) as (host, node):
        await node.linked(info=info)
        host.send(launch(1, "grep", "Cpus_allowed_list", "/proc/self/status", numa_node=0))
        end = await ended(host, 1)
        if end.exit_code is None:
            assert "NUMA node 0" in str(end.reason)
        else:
            assert node.out(1).split()[1] == str(cpu).encode()


@pytest.mark.asyncio
async def test_what_is_discarded_is_gone_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with one_node(tmp_path) as (host, node):
        await node.linked()
        script = b"import pathlib\npathlib.Path('made').mkdir()"
        host.send(*(launch(number, "", script=script) for number in (1, 2, 3)))
        host.send(launch(4, "sleep", "1000"))
        for number in (1, 2, 3):
            assert (await ended(host, number)).exit_code == 0
        for number in (1, 3):
            host.send(Acknowledge(task_id=number))
        await eventually(lambda: b'"task_id":3' not in node.state.journal.read_bytes())
        outside = tmp_path / "outside"
        outside.mkdir()
        (outside / "kept").write_text("")
        link, stuck = node.state.work / "7", node.files.script(8)
        link.symlink_to(outside)
        stuck.mkdir()
        await began(host, 4)
        host.send(Discard(task_ids=(1, 2, 4, 5, 7, 8)))
        assert (await host.wait_for(Discarded)).task_ids == (1, 5, 7)
        left = {path.name for path in node.state.root.rglob("*") if path.parent != node.state.root}
        assert not {"1", "1.out", "1.err", "7"} & left
        assert {"2", "2.out", "2.err", "3", "3.out", "4.out", "8"} <= left
        assert (outside / "kept").exists()
        assert "task 8" in caplog.text


@pytest.mark.asyncio
async def test_several_messages_may_share_a_frame(tmp_path: Path) -> None:
    async with one_node(tmp_path) as (host, node):
        await node.linked()
        outbox = Outbox(lambda: None)
        for number in range(5):
            outbox.add(encode(launch(number, "true")))
        frames = outbox.take()
        assert len(frames) == 1
        assert host.link is not None
        host.link.write_message(frames[0], binary=True)
        for number in range(5):
            assert (await ended(host, number)).exit_code == 0
