from __future__ import annotations

import asyncio
import errno
import os
from typing import TYPE_CHECKING

import msgspec
import pytest

from hakuriver import logfiles
from hakuriver.disk import remove_at
from hakuriver.model.messages import (
    MAX_FRAME,
    Acknowledge,
    Discard,
    Discarded,
    Finished,
    Known,
    LogChunk,
    LogEnd,
    LogOpen,
    Outbox,
    encode,
)
from hakuriver.model.nodes import NumaNode
from hakuriver.model.tasks import TaskState
from support.runner_node import INFO, began, ended, one_node
from support.runner_tools import (
    eventually,
    fifo,
    launch,
)

if TYPE_CHECKING:
    from pathlib import Path


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
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def removing(name: str, folder: int) -> None:
        if name == "8":
            raise OSError(errno.EIO, "the disk is ill", name)
        remove_at(name, folder)

    monkeypatch.setattr(logfiles, "remove_at", removing)
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
        stuck.write_text("")
        # Whatever a task has made of its log.
        node.files.log(5, "stdout").mkdir()
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
