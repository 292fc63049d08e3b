from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal
from typing import TYPE_CHECKING

import msgspec
import pytest

from hakuriver._version import __version__
from hakuriver.errors import StartError
from hakuriver.model.messages import (
    PROTOCOL,
    Acknowledge,
    Finished,
    Heartbeat,
    Hello,
    Kill,
    Known,
    KnownEnd,
    Outbox,
    Refuse,
    Started,
    encode,
)
from hakuriver.model.tasks import Origin, TaskState
from hakuriver.runner.launchers.minder import EXITS
from support.runner_node import INFO, began, ended, one_node
from support.runner_tools import (
    alive,
    eventually,
    fifo,
    keeper_pid,
    launch,
    records,
    task_tree,
)

if TYPE_CHECKING:
    from pathlib import Path


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
        assert records(node.state.keeper / EXITS)[1]["exit_code"] == 0
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
async def test_a_kill_that_comes_with_the_acknowledgement_changes_nothing(tmp_path: Path) -> None:
    async with one_node(tmp_path) as (host, node):
        await node.linked()
        host.send(launch(1, "true"))
        await ended(host, 1)
        outbox = Outbox(lambda: None)
        outbox.add(encode(Kill(task_id=1)))
        outbox.add(encode(Acknowledge(task_id=1)))
        assert host.link is not None
        for frame in outbox.take():
            host.link.write_message(frame, binary=True)
        host.send(launch(2, "true"))
        await ended(host, 2)
        told = [one.exit for one in host.said if isinstance(one, Finished) and one.task_id == 1]
        assert {end.status for end in told} == {TaskState.COMPLETED}


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
        await eventually(lambda: 1 in records(node.state.keeper / EXITS))
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
async def test_a_host_of_another_version_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with one_node(tmp_path) as (_, node):
        await node.linked()
        assert f"the host is hakuriver-jupyter 0, this runner {__version__}" in caplog.text


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
