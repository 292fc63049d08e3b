"""Commands that have nobody, or no room, to write to: they end without a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.processes import clean_environment

if TYPE_CHECKING:
    from collections.abc import Mapping

    from support.harness import Cluster

PROJECT = Path(__file__).parents[2] / "pyproject.toml"
COMMANDS = list(tomllib.loads(PROJECT.read_text("utf-8"))["project"]["scripts"])
READER_GONE = 141
#: Python gives a line to the pipe at once, or keeps it until the end.
BUFFERS = {"buffered": {}, "unbuffered": {"PYTHONUNBUFFERED": "1"}}

buffers = pytest.mark.parametrize("more", BUFFERS.values(), ids=BUFFERS)


def run_unread(
    name: str, *args: str, env: Mapping[str, str], cwd: Path, stderr: bool = False
) -> tuple[int, bytes]:
    """Run a command whose stdout, and stderr if it is asked for, nobody reads.

    Returns its exit code, and what it said on stderr otherwise.
    """
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [Path(sys.executable).parent / name, *args],
            env=dict(env),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=writer,
            stderr=writer if stderr else subprocess.PIPE,
            timeout=60,
            check=False,
        )
    finally:
        os.close(writer)
    return done.returncode, done.stderr or b""


@buffers
@pytest.mark.parametrize("option", ["--help", "--version"])
@pytest.mark.parametrize("name", COMMANDS)
def test_help_that_nobody_reads(
    tmp_path: Path, name: str, option: str, more: dict[str, str]
) -> None:
    env = clean_environment(tmp_path, **more)
    code, told = run_unread(name, option, env=env, cwd=tmp_path)
    assert told == b""
    # Newer releases of argparse overlook what they cannot write, and nothing is left for the exit.
    assert code == READER_GONE or ("PYTHONUNBUFFERED" in more and code == 0)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_mistake_of_which_nobody_reads(tmp_path: Path, name: str) -> None:
    env = clean_environment(tmp_path)
    code, _ = run_unread(name, "--nosuch", env=env, cwd=tmp_path, stderr=True)
    assert code == READER_GONE


@pytest.mark.parametrize("name", COMMANDS)
def test_a_mistake_is_told_though_nobody_reads_stdout(tmp_path: Path, name: str) -> None:
    code, told = run_unread(name, "--nosuch", env=clean_environment(tmp_path), cwd=tmp_path)
    assert code == 2
    assert b"usage" in told or b"--nosuch" in told
    assert b"Traceback" not in told


@buffers
@pytest.mark.parametrize(
    "line",
    [
        *("client --list-nodes", "client --list-tasks", "client --list-tasks --json"),
        *("client --health", "client --status {task}", "client --logs {task}"),
        *("client --follow --target node1 -- yes", "client --watch --list-nodes"),
        *("client --wait --target node1 -- true", "client --logs {task} --follow"),
        *("token --node x", "init", "doctor"),
        "hakurun echo span:{{1..3}}",
    ],
)
def test_a_table_that_nobody_reads(cluster: Cluster, line: str, more: dict[str, str]) -> None:
    task = cluster.run("echo", "a line", target="node1")["task_id"]
    command, *rest = line.format(task=task).split(" ")
    config = [] if command == "hakurun" else ["-c", str(cluster.config)]
    env = {**cluster.env, **more}
    code, told = run_unread("hakuriver", command, *config, *rest, env=env, cwd=cluster.root)
    assert code == READER_GONE
    assert b"Error" not in told, told
    assert b"Exception" not in told, told


@buffers
def test_a_reader_that_has_enough(cluster: Cluster, more: dict[str, str]) -> None:
    task = cluster.run("seq", "300000", target="node1")["task_id"]
    argv = ["hakuriver.client", "-c", str(cluster.config), "--logs", task]
    with subprocess.Popen(
        [Path(sys.executable).parent / argv[0], *argv[1:]],
        env={**cluster.env, **more},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"1\n"
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == READER_GONE


def test_a_failure_that_nobody_reads(cluster: Cluster) -> None:
    argv = ("hakuriver.client", "-c", str(cluster.config), "--status", "1")
    code, _ = run_unread(*argv, env=cluster.env, cwd=cluster.root, stderr=True)
    assert code == READER_GONE
    code, told = run_unread(*argv, env=cluster.env, cwd=cluster.root)
    assert code == 1
    assert len(told.splitlines()) == 1


def run_to(cluster: Cluster, to: str, *args: str) -> tuple[int, str]:
    """Run the client with a shell's redirection; return its exit code, and what stderr had."""
    words = [str(Path(sys.executable).parent / "hakuriver.client"), "-c", str(cluster.config)]
    done = subprocess.run(
        ["sh", "-c", f'"$@" {to}', "sh", *words, *args],
        env=dict(cluster.env),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stderr


def test_output_without_room_is_told(cluster: Cluster) -> None:
    told = "hakuriver: the output cannot be written: No space left on device\n"
    many = cluster.run("seq", "300000", target="node1")["task_id"]
    for args in (["--list-nodes"], ["--help"], ["--logs", many], ["--list-tasks", "--json"]):
        assert run_to(cluster, ">/dev/full", *args) == (1, told), args
    assert run_to(cluster, "2>/dev/full", "--status", "1")[0] == 1


def test_what_goes_to_a_closed_stream_goes_nowhere(cluster: Cluster) -> None:
    task = cluster.run("echo", "a line", target="node1")["task_id"]
    for args in (["--list-nodes"], ["--help"], ["--logs", task], ["--status", task]):
        assert run_to(cluster, ">&-", *args) == (0, ""), args
    assert run_to(cluster, "2>&-", "--status", "1") == (1, "")
