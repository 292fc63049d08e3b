from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from hakuriver import __version__
from support.harness import check_one_line, write_toml
from support.processes import check_no_leftovers, clean_environment, run_hakuriver

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.harness import Cluster

COMMANDS = (["host"], ["runner"], ["client", "--list-nodes"], ["up"])
MISTAKES: dict[str, tuple[dict[str, dict[str, object]], str]] = {
    "unknown key": ({"network": {"host_prot": 1}}, "host_prot"),
    "ill-typed": ({"network": {"host_port": "many"}}, "network.host_port"),
    "unknown section": ({"netwrok": {"host_port": 1}}, "netwrok"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_a_mistake_in_the_file_is_told_with_file_and_key(
    tmp_path: Path, command: list[str], mistake: str
) -> None:
    sections, word = MISTAKES[mistake]
    path = write_toml(tmp_path / "wrong.toml", sections)
    done = run_hakuriver(
        *(command[0], "-c", str(path), *command[1:]),
        env=clean_environment(tmp_path / "home"),
        cwd=tmp_path,
        check=2,
    )
    check_one_line(done.stderr, str(path), word)
    assert done.stdout == ""
    check_no_leftovers(tmp_path)


def test_a_file_that_is_no_toml_is_told(tmp_path: Path) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text("[network\nhost_port = 1\n", "utf-8")
    env = clean_environment(tmp_path / "home")
    done = run_hakuriver("host", "--config", str(path), env=env, cwd=tmp_path, check=2)
    check_one_line(done.stderr, str(path))


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    env = clean_environment(tmp_path / "home")
    done = run_hakuriver("client", "-c", "nowhere.toml", "--list-nodes", env=env, cwd=tmp_path)
    assert done.returncode == 2
    check_one_line(done.stderr, "nowhere.toml")


def test_a_variable_that_overrides_no_key_is_told(tmp_path: Path) -> None:
    env = clean_environment(tmp_path / "home", HAKURIVER_NETWORK_HOST_PORT="many")
    done = run_hakuriver("host", env=env, cwd=tmp_path, check=2)
    check_one_line(done.stderr, "HAKURIVER_NETWORK_HOST_PORT")


@pytest.mark.parametrize("command", ["host", "runner", "client", "init", "up", "down"])
def test_every_command_tells_its_version(tmp_path: Path, command: str) -> None:
    env = clean_environment(tmp_path / "home")
    done = run_hakuriver(command, "--version", env=env, cwd=tmp_path, check=0)
    assert re.search(rf"\b{re.escape(__version__)}\b", done.stdout)


def test_a_second_host_on_the_same_port_says_what_to_mend(
    make_cluster: Callable[..., Cluster],
) -> None:
    cluster = make_cluster()
    cluster.start_host()
    other = make_cluster(settings={"network": {"host_port": cluster.port}})
    done = run_hakuriver(*other.host.argv, env=other.env, cwd=other.root)
    assert done.returncode not in {0, -9}
    check_one_line(done.stderr, str(cluster.port))


def test_a_shared_directory_that_is_missing_stops_the_runner(
    make_cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    missing = str(tmp_path / "nowhere")
    cluster = make_cluster(settings={"paths": {"shared_dir": missing}})
    done = run_hakuriver(*cluster.runners["node1"].argv, env=cluster.env, cwd=cluster.root)
    assert done.returncode not in {0, -9}
    check_one_line(done.stderr, "shared_dir", missing)


def test_a_runner_started_before_its_host_joins_when_the_host_comes(
    make_cluster: Callable[..., Cluster],
) -> None:
    cluster = make_cluster()
    cluster.start_runner("node1")
    cluster.start_host()
    cluster.wait_online("node1")


def test_daemons_keep_their_files_to_themselves(fresh_cluster: Cluster) -> None:
    fresh_cluster.run("true", env_vars={"A": "b"})
    states = [fresh_cluster.state_dir(owner) for owner in ("host", *fresh_cluster.nodes)]
    paths = [path for state in states for path in (state, *state.rglob("*"))]
    modes = {str(path): path.lstat().st_mode for path in paths if not path.is_symlink()}
    assert {path: f"{mode:o}" for path, mode in modes.items() if mode & 0o077} == {}


def test_daemons_end_soon_after_sigterm(fresh_cluster: Cluster) -> None:
    fresh_cluster.run("true")
    with fresh_cluster.raw("/api/events"):
        for daemon in (*fresh_cluster.runners.values(), fresh_cluster.host):
            daemon.stop()
    check_no_leftovers(fresh_cluster.root)
