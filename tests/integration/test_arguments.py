from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

import pytest

from support.harness import check_one_line

if TYPE_CHECKING:
    from pathlib import Path

    from support.harness import Cluster

ECHO = "import os, sys, json; print(json.dumps([os.fsencode(a).hex() for a in sys.argv[1:]]))"
ARGUMENTS = [
    "two words",
    " spaces  around ",
    'a "double" quote',
    "a 'single' one",
    "",
    "$HOME",
    "${X}",
    "$(id)",
    "`id`",
    "%n",
    "%%",
    "50%",
    "line\nbreak",
    "tab\tand\rreturn",
    "naïve ✓ 漢字 🙂",
    "-x",
    "--target",
    "--",
    "back\\slash",
    "*",
    "a;b|c&d>e",
    "{1..3}",
    "\x01\x7f",
    "",
]


def _heard(cluster: Cluster, task_id: str) -> list[str]:
    assert cluster.wait(task_id)["status"] == "completed", cluster.text(task_id, "stderr")
    return [bytes.fromhex(value).decode() for value in json.loads(cluster.output(task_id))]


def test_arguments_reach_the_program_byte_for_byte_from_the_command_line(cluster: Cluster) -> None:
    command = ("--wait", "--follow", "--target", "node1", "--", sys.executable, "-c", ECHO)
    done = cluster.run_client(*command, *ARGUMENTS, check=0)
    (line,) = [line for line in done.stdout.splitlines() if line.startswith('["')]
    assert [bytes.fromhex(value).decode() for value in json.loads(line)] == ARGUMENTS


def test_arguments_reach_the_program_byte_for_byte_over_http(cluster: Cluster) -> None:
    task_id = cluster.submit(sys.executable, "-c", ECHO, *ARGUMENTS)
    assert _heard(cluster, task_id) == ARGUMENTS
    assert cluster.status(task_id)["arguments"] == ["-c", ECHO, *ARGUMENTS]


def test_arguments_reach_a_script(cluster: Cluster) -> None:
    task_id = cluster.script(ECHO, arguments=ARGUMENTS)
    assert _heard(cluster, task_id) == ARGUMENTS


def test_a_long_argument_and_many_reach_the_program(cluster: Cluster) -> None:
    arguments = ["x" * ((128 << 10) - 1), *(str(number) for number in range(5000))]
    task_id = cluster.submit(sys.executable, "-c", ECHO, *arguments)
    assert _heard(cluster, task_id) == arguments


def test_a_program_whose_path_is_odd_is_found(cluster: Cluster, tmp_path: Path) -> None:
    program = tmp_path / "my $HOME %n 'program'"
    program.write_text("#!/bin/sh\nprintf '%s' \"$0|$1\"\n", "utf-8")
    program.chmod(0o755)
    task = cluster.run(str(program), "one two")
    assert cluster.text(task["task_id"]) == f"{program}|one two"


def test_scripts_run_by_their_first_line_or_as_python(cluster: Cluster) -> None:
    shell = cluster.submit(script="#!/bin/sh\necho shell $1\n", arguments=["a"])
    python = cluster.submit(script="import sys\nprint('python', sys.argv[1])\n", arguments=["b"])
    given = cluster.submit(
        script='echo "$1 $2"\n', interpreter=["/bin/sh", "-e"], arguments=["c", "d e"]
    )
    for task_id, expected in ((shell, "shell a\n"), (python, "python b\n"), (given, "c d e\n")):
        task = cluster.wait(task_id)
        assert task["status"] == "completed", cluster.text(task_id, "stderr")
        assert cluster.text(task_id) == expected


def test_a_script_of_megabytes_travels(cluster: Cluster) -> None:
    script = "data = '''" + "x" * (3 << 20) + "'''\nprint(len(data))\n"
    task_id = cluster.script(script)
    assert cluster.wait(task_id)["status"] == "completed"
    assert cluster.text(task_id) == f"{3 << 20}\n"


@pytest.mark.parametrize(
    "args",
    [
        ["--cores", "-1", "--", "true"],
        ["--cores", "some", "--", "true"],
        ["--memory", "1X", "--", "true"],
        ["--time-limit", "soon", "--", "true"],
        ["--env", "1BAD=x", "--", "true"],
        ["--target", "no de", "--", "true"],
        ["--target", "node1", "--"],
        ["--target", "node1"],
        ["--nosuch", "--", "true"],
        [],
    ],
    ids=" ".join,
)
def test_a_usage_error_exits_2_and_shows_the_usage(cluster: Cluster, args: list[str]) -> None:
    done = cluster.run_client(*args, check=2)
    assert "usage:" in done.stderr.lower()
    assert done.stdout == ""


def test_a_variable_that_is_not_set_is_a_usage_error(cluster: Cluster) -> None:
    done = cluster.run_client("--env", "NOT_SET_ANYWHERE", "--", "true", check=2)
    assert "NOT_SET_ANYWHERE" in done.stderr


MIB = 1 << 20
FAULTS: dict[str, tuple[dict[str, object], str]] = {
    "empty command": ({"command": ""}, "command"),
    "no command": ({}, "command"),
    "command and script": ({"command": "true", "script": "x"}, "command"),
    "10 MB of arguments": ({"command": "echo", "arguments": ["x" * 1000] * 10_000}, "arguments"),
    "one argument too long": (
        {"command": "echo", "arguments": ["a", "x" * (128 << 10)]},
        "arguments[1]",
    ),
    "NUL byte": ({"command": "echo", "arguments": ["a\0b"]}, "arguments[0]"),
    "NUL in command": ({"command": "ec\0ho"}, "command"),
    # JSON that holds half a character is no text at all, hence the body as the field.
    "lone surrogate": ({"command": "echo", "arguments": ["\ud800"]}, "body"),
    "bad variable name": ({"command": "true", "env_vars": {"1A": "x"}}, "env_vars"),
    "variable with an equals sign": ({"command": "true", "env_vars": {"A=B": "x"}}, "env_vars"),
    "NUL in a value": ({"command": "true", "env_vars": {"A": "\0"}}, "env_vars"),
    "negative cores": ({"command": "true", "required_cores": -1}, "required_cores"),
    "cores as text": ({"command": "true", "required_cores": "1"}, "required_cores"),
    "no memory": ({"command": "true", "required_memory_bytes": 0}, "required_memory_bytes"),
    "relative directory": ({"command": "true", "working_directory": "x"}, "working_directory"),
    "long name": ({"command": "true", "name": "x" * 201}, "name"),
    "no time": ({"command": "true", "time_limit_seconds": 0}, "time_limit_seconds"),
    "not Base64": ({"script_base64": "?"}, "script_base64"),
    "unknown field": ({"command": "true", "nosuch": 1}, "nosuch"),
    "too many targets": ({"command": "true", "targets": ["node1"] * 1001}, "targets"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_field_is_refused_by_its_name(cluster: Cluster, fault: str) -> None:
    body, field = FAULTS[fault]
    reply = cluster.http("POST", "/api/submit", body={"targets": ["node1"], **body})
    assert reply.status == 422, reply.body
    detail = reply.json()["detail"]
    assert any(field in f"{entry['field']}: {entry['reason']}" for entry in detail), detail
    assert cluster.unfinished() == []


def test_a_request_that_is_too_large_is_refused_and_the_host_goes_on(cluster: Cluster) -> None:
    body = b'{"command": "' + b"x" * (17 * MIB) + b'"}'
    try:
        reply = cluster.http("POST", "/api/submit", body=body)
    except ConnectionError:
        pass  # The host may answer and close before the whole of it is sent.
    else:
        assert 400 <= reply.status < 500
    assert cluster.http("GET", "/healthz").status == 200


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff", b'"true"'])
def test_a_body_that_is_no_request_is_refused(cluster: Cluster, body: bytes) -> None:
    reply = cluster.http("POST", "/api/submit", body=body)
    assert reply.status in {400, 422}
    assert reply.json()["detail"]


def test_odd_paths_and_parameters_are_refused_without_a_fault(cluster: Cluster) -> None:
    for path, status in {
        "/api/nosuch": {404},
        "/api/status/abc": {404},
        "/api/status/99999999999999999999": {404},
        "/api/task/1/stdout": {404},
        "/api/task/..%2f..%2fetc%2fpasswd/stdout": {404},
        "/api/tasks?limit=x": {400, 422},
        "/api/tasks?limit=-1": {400, 422},
        "/api/tasks?state=nosuch": {400, 422},
        "/api/tasks?before=x": {400, 404, 422},
        "/api/events?after=x": {400, 422},
        "/api/submit": {405},
    }.items():
        reply = cluster.http("GET", path)
        assert reply.status in status, f"{path}: {reply.status} {reply.body!r}"
        assert reply.json()["detail"]


def test_arguments_that_are_not_unicode_are_a_usage_error(cluster: Cluster) -> None:
    done = cluster.run_client("--target", "node1", "--", "echo", os.fsdecode(b"\xff\xfe"))
    assert done.returncode == 2
    check_one_line(done.stderr.splitlines()[-1], "argument")
