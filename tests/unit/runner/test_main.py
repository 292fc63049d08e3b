from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import msgspec
import pytest

from hakuriver.config import Config, Network, Paths, Runner, Security
from hakuriver.errors import ConfigError, StartError
from hakuriver.model.auth import runner_token
from hakuriver.model.messages import Finished, Heartbeat, Hello, Known, Started
from hakuriver.runner.main import end_tasks, node_name, node_token, serve, state_folder
from support.runner_host import fake_host
from support.runner_tools import PATH, alive, eventually, fake_sysfs, keeper_pid, launch

if TYPE_CHECKING:
    from pathlib import Path


def config(root: Path, *, port: int = 1, **paths: str) -> Config:
    return Config(
        network=Network(host_port=port),
        paths=Paths(state_dir=str(root / "state"), **paths),
        runner=Runner(name="n1", launcher="process"),
        security=Security(runner_secret="s3cret"),
    )


def with_folder(root: Path, key: str, path: str) -> Config:
    return msgspec.structs.replace(
        config(root), paths=Paths(**{"state_dir": str(root / "state"), key: path})
    )


def test_a_node_is_called_as_configured_or_as_its_machine() -> None:
    assert node_name(Config(runner=Runner(name="x"))) == "x"
    assert node_name(Config()) == socket.gethostname()
    with pytest.raises(ConfigError, match=r"runner\.name"):
        node_name(Config(runner=Runner(name="a b")))


def test_a_token_is_given_or_made(tmp_path: Path) -> None:
    assert node_token(config(tmp_path)) == runner_token("s3cret", "n1")
    given = Config(runner=Runner(name="n1"), security=Security(runner_token="t"))
    assert node_token(given) == "t"
    with pytest.raises(ConfigError, match=r"runner_secret"):
        node_token(Config())


@pytest.mark.asyncio
@pytest.mark.parametrize("key", ["shared_dir", "local_temp_dir"])
async def test_a_missing_folder_names_key_and_path(tmp_path: Path, key: str) -> None:
    missing = tmp_path / "missing"
    with pytest.raises(ConfigError, match=rf"paths\.{key}.*{missing}"):
        await serve(with_folder(tmp_path, key, str(missing)))
    with pytest.raises(ConfigError, match=rf"paths\.{key}: /proc/self"):
        await serve(with_folder(tmp_path, key, "/proc/self"))


def test_an_interpreter_that_is_missing_names_the_key(tmp_path: Path) -> None:
    runner = Runner(name="n1", launcher="process", python="no-such-python")
    with pytest.raises(ConfigError, match=r"runner\.python"):
        asyncio.run(serve(msgspec.structs.replace(config(tmp_path), runner=runner)))


def test_a_numactl_that_is_no_program_names_key_and_path(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"paths\.numactl_path: {tmp_path} "):
        asyncio.run(serve(with_folder(tmp_path, "numactl_path", str(tmp_path))))


@pytest.mark.asyncio
async def test_topology_and_use_may_be_read_from_elsewhere(tmp_path: Path) -> None:
    fake_sysfs(tmp_path / "sys", {0: ("0", 2048), 3: ("900", 4096)})
    async with fake_host() as host:
        settings = config(tmp_path, port=host.port)
        serving = asyncio.create_task(serve(settings, sysfs=tmp_path / "sys"))
        topology = (await host.wait_for(Hello)).info.numa_topology
        assert {name: node.cores for name, node in topology.items()} == {"0": (0,), "3": ()}
        use = (await host.wait_for(Heartbeat)).metrics.numa
        assert use["3"].memory_used_bytes == 2048 << 10
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(serving, 30)


RUNNER = """
import asyncio, sys
from hakuriver.config import load_config
from hakuriver.runner.main import serve
asyncio.run(serve(load_config(sys.argv[1])))
"""


def run_runner(root: Path, port: int) -> subprocess.Popen[bytes]:
    file = root / "config.toml"
    file.write_text(
        f"""
        [network]
        host_port = {port}
        [paths]
        state_dir = "{root}/state"
        [runner]
        name = "n1"
        launcher = "process"
        [security]
        runner_secret = "s3cret"
        """
    )
    command = [sys.executable, "-c", RUNNER, str(file)]
    return subprocess.Popen(command, env={"PATH": PATH}, stderr=subprocess.DEVNULL)


@pytest.mark.asyncio
async def test_a_runner_killed_at_any_moment_finds_the_truth_again(tmp_path: Path) -> None:
    async with fake_host() as host:
        wanted = {number: number % 7 for number in range(30)}
        runner = run_runner(tmp_path, host.port)
        try:
            for start in (0, 10, 20):
                await eventually(lambda: host.link is not None)
                for number in range(start, start + 10):
                    host.send(launch(number, "sh", "-c", f"sleep 0.05; exit {number % 7}"))
                mark = len(host.said)
                await host.wait_for(Started, since=mark)
                runner.kill()
                await asyncio.to_thread(runner.wait)
                await eventually(lambda: host.link is None)
                mark = len(host.said)
                runner = run_runner(tmp_path, host.port)
                await host.wait_for(Heartbeat, since=mark)
                known = {m.task_id for m in host.said[mark:] if isinstance(m, Known)}
                # What did not reach the journal is unknown there, and dispatched again.
                for number in set(range(start, start + 10)) - known:
                    host.send(launch(number, "sh", "-c", f"sleep 0.05; exit {number % 7}"))

            def ends() -> dict[int, int | None]:
                told = [(m.task_id, m.exit) for m in host.said if isinstance(m, Finished | Known)]
                return {number: end.exit_code for number, end in told if end is not None}

            await eventually(lambda: len(ends()) == 30)
            lost = {number for number, code in ends().items() if code is None}
            assert {n: c for n, c in ends().items() if n not in lost} == {
                n: c for n, c in wanted.items() if n not in lost
            }
            # Journaled, but the runner died before it could start them.
            reasons = [m.exit for m in host.said if isinstance(m, Known) and m.task_id in lost]
            assert {end.reason for end in reasons if end} <= {"start interrupted"}
        finally:
            runner.terminate()
            await asyncio.to_thread(runner.wait)
            await end_tasks(config(tmp_path))


@pytest.mark.asyncio
async def test_a_runner_serves_until_sigterm_and_its_tasks_go_on(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    async with fake_host() as host:
        settings = config(tmp_path, port=host.port, shared_dir=str(shared))
        serving = asyncio.create_task(serve(settings))
        await host.wait_for(Heartbeat)
        host.send(launch(1, "pwd"), launch(2, "sh", "-c", "echo $$; sleep 1000"))
        await host.wait_for(Finished)
        assert (shared / "task_outputs" / "1.out").read_text() == f"{shared}\n"
        await host.wait_for(Started, lambda told: told.task_id == 2)
        log = shared / "task_outputs" / "2.out"
        await eventually(lambda: log.read_text().endswith("\n"))
        with pytest.raises(StartError, match=f"pid {os.getpid()}"):
            await serve(settings)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(serving, 30)
        task = int(log.read_text())
        keeper = keeper_pid(state_folder(settings).keeper)
        assert alive(task)
        assert keeper is not None
        await end_tasks(settings)
        assert not alive(task)
        await eventually(lambda: not alive(keeper))
