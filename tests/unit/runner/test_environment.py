from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from hakuriver.model.tasks import TaskSpec
from hakuriver.runner.environment import (
    THREAD_VARIABLES,
    Surroundings,
    command_line,
    task_environment,
    working_directory,
)
from support.runner_tools import placement

AROUND = Surroundings(
    node="n1",
    home="/home/u",
    user="u",
    path="/usr/bin:/bin",
    temp_dir="/tmp",
    python="/opt/py/bin/python",
    work_root=Path("/state/work"),
)
SHARED = msgspec.structs.replace(
    AROUND, shared_dir=Path("/shared"), local_temp_dir=Path("/scratch")
)


def spec(**changes: Any) -> TaskSpec:
    return TaskSpec(**{"command": "true", **changes})


def test_the_environment_is_small_and_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HAKURIVER_SECURITY_RUNNER_SECRET", "s3cret")
    monkeypatch.setenv("PYTHONPATH", "/private")
    env = task_environment(AROUND, 5, spec(required_cores=2), placement(batch_index=1))
    assert env == {
        "HOME": "/home/u",
        "USER": "u",
        "PATH": "/opt/py/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "TMPDIR": "/tmp",
        "PYTHONUNBUFFERED": "1",
        **dict.fromkeys(THREAD_VARIABLES, "2"),
        "HAKURIVER_TASK_ID": "5",
        "HAKURIVER_BATCH_ID": "7",
        "HAKURIVER_BATCH_INDEX": "1",
        "HAKURIVER_BATCH_SIZE": "1",
        "HAKURIVER_NODE": "n1",
        "HAKURIVER_CORES": "2",
    }


def test_configured_folders_and_the_numa_node_are_told() -> None:
    env = task_environment(SHARED, 5, spec(), placement(numa_node=0))
    assert env["HAKURIVER_SHARED_DIR"] == "/shared"
    assert env["HAKURIVER_LOCAL_TEMP_DIR"] == env["TMPDIR"] == "/scratch"
    assert env["HAKURIVER_TARGET_NUMA_NODE"] == "0"


def test_no_thread_counts_without_cores_or_against_a_wish() -> None:
    env = task_environment(AROUND, 5, spec(required_cores=0), placement())
    assert not env.keys() & set(THREAD_VARIABLES)
    wish = {"OMP_NUM_THREADS": "9"}
    env = task_environment(AROUND, 5, spec(required_cores=4, env_vars=wish), placement())
    assert (env["OMP_NUM_THREADS"], env["MKL_NUM_THREADS"]) == ("9", "4")


def test_a_submission_sets_anything_but_the_tasks_identity() -> None:
    wish = {"PATH": "/mine", "HOME": "/h", "HAKURIVER_TASK_ID": "1", "HAKURIVER_OTHER": "x"}
    env = task_environment(AROUND, 5, spec(env_vars=wish), placement())
    assert (env["PATH"], env["HOME"], env["HAKURIVER_OTHER"]) == ("/mine", "/h", "x")
    assert env["HAKURIVER_TASK_ID"] == "5"


def test_an_empty_path_of_the_runner_adds_no_empty_folder() -> None:
    around = msgspec.structs.replace(AROUND, path="")
    assert task_environment(around, 5, spec(), placement())["PATH"] == "/opt/py/bin"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (spec(arguments=("-x", "")), ("true", "-x", "")),
        (spec(command="", script=b"print()", arguments=("a",)), ("/py", "/s", "a")),
        (spec(command="", script=b"#!/bin/sh\n", arguments=("a",)), ("/s", "a")),
        (spec(command="", script=b"#!x", interpreter=("bash", "-e")), ("bash", "-e", "/s")),
    ],
)
def test_command_lines(given: TaskSpec, expected: tuple[str, ...]) -> None:
    assert command_line(given, Path("/s"), "/py") == expected


def test_working_directories_in_their_order() -> None:
    embedded = msgspec.structs.replace(AROUND, default_workdir=Path("/caller"))
    both = msgspec.structs.replace(SHARED, default_workdir=Path("/caller"))
    asked = spec(working_directory="/asked")
    assert working_directory(both, 5, asked) == Path("/asked")
    assert working_directory(both, 5, spec()) == Path("/shared")
    assert working_directory(embedded, 5, spec()) == Path("/caller")
    assert working_directory(AROUND, 5, spec()) == Path("/state/work/5")
