from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hakuriver.errors import InvalidRequest
from hakuriver.model.quantities import MAX_CORES, MAX_DURATION, MAX_MEMORY
from hakuriver.model.submission import (
    MAX_ARGUMENT,
    MAX_KEY,
    MAX_LOGS,
    MAX_MANY,
    MAX_SCRIPT,
    MAX_TARGETS,
    MAX_TOTAL,
    LogWish,
    RerunRequest,
    StreamRequest,
    SubmitManyRequest,
    SubmitRequest,
    decode_body,
)
from hakuriver.model.tasks import TaskSpec


def read(**fields: Any) -> TaskSpec:
    """Take in a request as the host does."""
    return SubmitRequest.from_json(json.dumps(fields).encode()).to_spec()


def refusal(**fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        read(**fields)
    return caught.value


def test_defaults() -> None:
    assert read(command="true") == TaskSpec(command="true")


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0")), max_size=5))
def test_arguments_arrive_as_they_are(arguments: list[str]) -> None:
    assert read(command="c", arguments=arguments).arguments == tuple(arguments)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("required_cores", -1),
        ("required_cores", MAX_CORES + 1),
        ("required_cores", 1.5),
        ("required_cores", True),
        ("required_cores", "1"),
        ("required_cores", 1 << 70),
        ("required_memory_bytes", 0),
        ("required_memory_bytes", MAX_MEMORY + 1),
        ("required_memory_bytes", "4G"),
        ("time_limit_seconds", 0),
        ("time_limit_seconds", -1),
        ("time_limit_seconds", MAX_DURATION + 1),
        ("targets", ["n"] * (MAX_TARGETS + 1)),
        ("targets", "n"),
        ("name", "x" * 201),
        ("name", "a\0b"),
        ("name", None),
        ("working_directory", "relative"),
        ("working_directory", "/a\0b"),
        ("working_directory", ""),
        ("use_private_network", "yes"),
        ("arguments", "one"),
        ("arguments", None),
        ("env_vars", []),
        ("env_vars", {"1A": "x"}),
        ("env_vars", {"": "x"}),
        ("env_vars", {"A=B": "x"}),
        ("env_vars", {"É": "x"}),
        ("env_vars", {"A\n": "x"}),
        ("interpreter", ["bash"]),
        ("command", ""),
        ("command", "a\0b"),
        ("command", 1),
        ("command", "x" * (MAX_ARGUMENT + 1)),
    ],
)
def test_a_bad_field_is_named(field: str, value: Any) -> None:
    assert refusal(**{"command": "c", field: value}).field == field


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"arguments": ["ok", "a\0b"]}, "arguments[1]"),
        ({"arguments": ["x" * (MAX_ARGUMENT + 1)]}, "arguments[0]"),
        ({"arguments": ["é" * (MAX_ARGUMENT // 2 + 1)]}, "arguments[0]"),
        ({"arguments": ["x", 3]}, "arguments[1]"),
        ({"env_vars": {"A": "a\0b"}}, "env_vars.A"),
        ({"env_vars": {"A": "x" * (MAX_ARGUMENT + 1)}}, "env_vars.A"),
        ({"shell": True}, "body"),
    ],
)
def test_the_place_within_a_list_is_named(fields: dict[str, Any], named: str) -> None:
    error = refusal(command="c", **fields)
    assert error.field == named
    assert error.reason
    assert len(str(error)) < 300


def test_an_unknown_key_is_named() -> None:
    assert "shell" in str(refusal(command="c", shell=True))


def test_a_value_of_the_environment_is_not_repeated_in_the_refusal() -> None:
    assert "hunter2" not in str(refusal(command="c", env_vars={"A": "hunter2\0"}))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"command": "c", "script": "s"},
        {"command": "c", "script_base64": "cw=="},
        {"script": "s", "script_base64": "cw=="},
        {"command": "c", "script": "s", "script_base64": "cw=="},
        {"command": None},
        {"script": ""},
        {"script_base64": ""},
        {"script_base64": "no base64!"},
        {"script_base64": "é"},
        {"script": "s", "interpreter": []},
        {"script": "s", "interpreter": [""]},
        {"script": "s", "interpreter": ["a\0b"]},
    ],
)
def test_exactly_one_thing_is_to_run(fields: dict[str, Any]) -> None:
    assert refusal(**fields).field


def test_the_largest_that_is_taken() -> None:
    longest = "x" * MAX_ARGUMENT
    spec = read(
        command="c",
        arguments=[longest] * 7,
        required_cores=MAX_CORES,
        required_memory_bytes=MAX_MEMORY,
        time_limit_seconds=MAX_DURATION,
        name="n" * 200,
        targets=["n"] * MAX_TARGETS,
    )
    assert spec.arguments == (longest,) * 7


def test_arguments_and_environment_count_together() -> None:
    half = ["x" * 100_000] * 6
    env = {f"V{index}": "y" * 100_000 for index in range(6)}
    assert read(command="c", arguments=half)
    assert read(command="c", env_vars=env)
    assert str(MAX_TOTAL) in str(refusal(command="c", arguments=half, env_vars=env))


def test_ten_megabytes_of_arguments_are_refused() -> None:
    assert refusal(command="c", arguments=["x" * 100_000] * 100).field == "arguments"


def test_the_kernel_takes_name_and_value_as_one_string() -> None:
    # execve counts NAME=value as one argument, whose limit holds.
    assert refusal(command="c", env_vars={"LONG_NAME": "x" * MAX_ARGUMENT}).field.startswith("env")


def test_scripts() -> None:
    every_byte = bytes(range(256))
    assert read(script_base64=b64encode(every_byte).decode()).script == every_byte
    assert read(script="#!/bin/sh\n", interpreter=["bash", "-e"]) == TaskSpec(
        command="", script=b"#!/bin/sh\n", interpreter=("bash", "-e")
    )
    assert read(script="x" * MAX_SCRIPT).script
    assert refusal(script="é" * (MAX_SCRIPT // 2 + 1)).field == "script"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b'"text"',
        b'{"command": "\xff"}',
        b'{"\xff": 1}',
        b'{"command": "\xed\xa0\x80"}',
        b'{"command": "\\ud800"}',
        b'{"command": "a", "arguments": ["\\udfff"]}',
        b'{"command": "a", "targets": ["\\ud800"]}',
        b'{"command": "a", "env_vars": {"\\ud800": "x"}}',
        b'{"command": "a", "required_cores": 1e400}',
        b'{"command": "a", "required_cores": NaN}',
        b'{"command": ' + b"[" * 100_000,
        b'{"arguments": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"x": ' + b'{"x":' * 100_000,
        b"[" * 100_000,
    ],
)
def test_a_body_that_cannot_be_read_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        SubmitRequest.from_json(body).to_spec()


@given(st.binary(max_size=40))
def test_any_body_is_taken_or_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        SubmitRequest.from_json(body).to_spec()


@pytest.mark.parametrize("field", ["command", "script", "name", "working_directory"])
def test_a_lone_surrogate_from_python_is_refused(field: str) -> None:
    request = SubmitRequest(**({"command": "c"} if field != "script" else {}))  # type: ignore[arg-type]
    setattr(request, field, "/\ud800")
    with pytest.raises(InvalidRequest) as caught:
        request.to_spec()
    assert caught.value.field == field


# -- what came with queues, keys and streams -----------------------------------------------


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"queue": "no"}, "queue"),
        ({"queue": 0}, "queue"),
        ({"idempotency_key": ""}, "idempotency_key"),
        ({"idempotency_key": "k" * (MAX_KEY + 1)}, "idempotency_key"),
        ({"idempotency_key": 5}, "idempotency_key"),
        ({"idempotency_key": "a\0b"}, "idempotency_key"),
    ],
)
def test_bad_keys_and_wishes_are_named(fields: dict[str, Any], where: str) -> None:
    body = json.dumps({"command": "c", **fields}).encode()
    with pytest.raises(InvalidRequest) as caught:
        SubmitRequest.from_json(body).to_spec()
    assert caught.value.field == where


def test_by_default_a_task_waits_and_has_no_key() -> None:
    request = SubmitRequest.from_json(b'{"command": "c"}')
    assert (request.queue, request.idempotency_key) == (True, None)
    longest = SubmitRequest(command="c", idempotency_key="\u00e9" * MAX_KEY)
    assert longest.to_spec() == request.to_spec()


def test_one_bad_submission_among_many_is_its_own() -> None:
    body = b'{"submissions": [{"command": 5}, {"command": "c"}, 7]}'
    many = decode_body(body, SubmitManyRequest)
    assert [bytes(one) for one in many.submissions] == [
        b'{"command": 5}',
        b'{"command": "c"}',
        b"7",
    ]


@pytest.mark.parametrize("count", [0, MAX_MANY + 1])
def test_many_are_not_none_and_not_too_many(count: int) -> None:
    body = json.dumps({"submissions": [{}] * count}).encode()
    with pytest.raises(InvalidRequest) as caught:
        decode_body(body, SubmitManyRequest)
    assert caught.value.field == "submissions"


@pytest.mark.parametrize(
    ("content", "where"),
    [
        ({"after": -1}, "after"),
        ({"after": 1.5}, "after"),
        ({"after": 1 << 63}, "after"),
        ({"logs": {}}, "logs"),
        ({"logs": [{}]}, "logs[0]"),
        ({"logs": [{"id": 1}]}, "logs[0].id"),
        ({"logs": [{"id": "1", "stream": "stdin"}]}, "logs[0].stream"),
        ({"logs": [{"id": "1", "offset": -1}]}, "logs[0].offset"),
        ({"logs": [{"id": "1"}] * (MAX_LOGS + 1)}, "logs"),
        ({"more": 1}, "body"),
    ],
)
def test_a_bad_wish_for_a_stream_is_named(content: dict[str, Any], where: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        decode_body(json.dumps(content).encode(), StreamRequest)
    assert caught.value.field == where


def test_an_empty_wish_is_the_events_from_now_on() -> None:
    assert decode_body(b"{}", StreamRequest) == StreamRequest(after=None, logs=[])
    assert decode_body(b"{}", RerunRequest) == RerunRequest(env_vars=None, queue=True)
    wish = decode_body(b'{"logs": [{"id": "1"}]}', StreamRequest).logs[0]
    assert wish == LogWish(id="1", stream="stdout", offset=0)
