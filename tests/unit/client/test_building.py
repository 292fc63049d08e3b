from __future__ import annotations

from pathlib import Path

import pytest

from hakuriver.client.building import command_request, script_request
from hakuriver.client.placeholder import created_targets, pending_views
from hakuriver.errors import InvalidRequest
from hakuriver.model.submission import SubmitRequest
from hakuriver.model.targets import Target
from hakuriver.model.views import FailedTarget, SubmitReply
from unit.client.fakes import make_view


def test_all_options_find_their_place() -> None:
    request = command_request(
        [Path("/bin/echo"), "a b", ""],
        target=Target("node1", 0),
        cores=2,
        memory="1.5G",
        time_limit="2h",
        env={"K": "V"},
        workdir=Path("/tmp"),
        name="mine",
        private_network=True,
        private_pid=True,
    )
    assert request == SubmitRequest(
        command="/bin/echo",
        arguments=["a b", ""],
        targets=["node1:0"],
        required_cores=2,
        required_memory_bytes=3 << 29,
        time_limit_seconds=7200,
        env_vars={"K": "V"},
        working_directory="/tmp",
        name="mine",
        use_private_network=True,
        use_private_pid=True,
    )


def test_nothing_is_limited_unless_asked_for() -> None:
    request = command_request("true")
    assert request == SubmitRequest(command="true", arguments=[])
    assert request.targets is None
    assert request.required_memory_bytes is None


def test_a_script_may_be_text_or_bytes() -> None:
    request = script_request("print()", ["x"], interpreter="bash -eu", targets=["a", "b"])
    assert (request.script, request.interpreter) == ("print()", ["bash", "-eu"])
    assert (request.arguments, request.targets) == (["x"], ["a", "b"])
    assert script_request(b"\xff").to_spec().script == b"\xff"
    assert script_request("x", interpreter=["a b"]).interpreter == ["a b"]


@pytest.mark.parametrize(
    ("command", "options", "field"),
    [
        ("echo hello", {}, "command"),
        ([], {}, "command"),
        ("", {}, "command"),
        (["a", 3], {}, "command"),
        (["a", b"bytes"], {}, "command"),
        (["a", "\0"], {}, "arguments[0]"),
        (["a"], {"cores": -1}, "required_cores"),
        (["a"], {"cores": "2"}, "required_cores"),
        (["a"], {"memory": "1X"}, "memory"),
        (["a"], {"memory": 0}, "required_memory_bytes"),
        (["a"], {"time_limit": "soon"}, "duration"),
        (["a"], {"time_limit": -1.0}, "time_limit_seconds"),
        (["a"], {"env": {"9": "x"}}, "env_vars"),
        (["a"], {"workdir": "here"}, "working_directory"),
        (["a"], {"name": "x" * 201}, "name"),
        (["a"], {"target": "n:x"}, "target"),
        (["a"], {"target": "n", "targets": ["n"]}, "targets"),
        (["a"], {"targets": "n"}, "targets"),
        (["a"], {"targets": []}, "targets"),
    ],
)
def test_mistakes_are_told_here_by_their_field(
    command: object, options: dict[str, object], field: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        command_request(command, **options)  # type: ignore[arg-type]
    assert caught.value.field == field


def test_an_unknown_option_is_named_with_the_known_ones() -> None:
    with pytest.raises(TypeError, match=r"'memroy'.*memory"):
        command_request("true", memroy="1G")  # type: ignore[call-arg]


def reply(*ids: str, failed: tuple[str, ...] = ()) -> SubmitReply:
    return SubmitReply(
        message="",
        task_ids=list(ids),
        batch_id="1",
        failed_targets=[FailedTarget(each, "no") for each in failed],
    )


def test_ids_belong_to_the_targets_that_were_not_refused() -> None:
    targets = ["a", "bad", "b:1", "a"]
    found = created_targets(targets, reply("2", "3", "4", failed=("bad",)))
    assert found == [Target("a"), Target("b", 1), Target("a")]
    assert created_targets(targets, reply("2")) == [None]
    assert created_targets([], reply("2")) == [None]


def test_a_new_task_is_pending_and_older_than_whatever_the_host_tells() -> None:
    request = command_request(["echo", "x"], targets=["a"], env={"SECRET": "value"})
    (view,) = pending_views(request, reply("2"))
    assert (view.status.value, view.target, view.rev) == ("pending", "a", 0)
    assert "value" not in repr(view)
    assert make_view().target == "node1"
