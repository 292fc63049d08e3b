from __future__ import annotations

from types import SimpleNamespace

import pytest

from hakuriver.errors import HakuRiverError, HostUnreachable, InvalidRequest, TaskError, TaskFailed
from hakuriver.model.tasks import TaskState
from hakuriver.model.views import TaskResult
from jupyter_ext.magics import errors as errors_module
from jupyter_ext.magics.errors import Brief, CellInterrupted, brief, last_lines

RESULT = TaskResult(
    task_id="7",
    target="node1",
    status=TaskState.FAILED,
    exit_code=4,
    reason=None,
    started_at=1.0,
    completed_at=2.0,
)


def shown(error: BaseException) -> str:
    assert isinstance(error, Brief)
    return "\n".join(error._render_traceback_())


def test_a_brief_error_keeps_kind_content_and_name() -> None:
    error = brief(TaskFailed("task 7 on node1 failed: exit code 4", RESULT), ["  boom"])
    assert isinstance(error, TaskFailed)
    assert type(error).__name__ == "TaskFailed"
    assert error.result is RESULT
    assert str(error) == "task 7 on node1 failed: exit code 4"
    assert shown(error) == "\x1b[31mTaskFailed\x1b[0m: task 7 on node1 failed: exit code 4\n  boom"


@pytest.mark.parametrize("word", ["NoColor", "nocolor"])
def test_a_shell_without_colours_shows_none(monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    monkeypatch.setattr(errors_module, "get_ipython", lambda: SimpleNamespace(colors=word))
    assert shown(CellInterrupted("task 7: killed")) == "CellInterrupted: task 7: killed"


def test_an_error_with_fields_keeps_them() -> None:
    error = brief(InvalidRequest("memory", "is no size"))
    assert (error.field, error.reason) == ("memory", "is no size")
    assert shown(error).endswith("memory: is no size")


def test_a_brief_error_is_caught_as_its_builtin() -> None:
    with pytest.raises(ConnectionError):
        raise brief(HostUnreachable("no host answers"))


def test_a_message_of_many_lines_stays_whole() -> None:
    assert shown(brief(HostUnreachable("one\ntwo"))).endswith("one\ntwo")


def test_an_interrupted_cell_is_a_keyboard_interrupt() -> None:
    error = CellInterrupted("task 7: killed")
    assert isinstance(error, KeyboardInterrupt)
    assert shown(error) == "\x1b[31mCellInterrupted\x1b[0m: task 7: killed"


def test_a_brief_error_is_made_once() -> None:
    error = brief(HostUnreachable("no host answers"), ["why"])
    assert brief(error) is error


def test_the_last_lines_of_a_traceback_are_the_exception() -> None:
    text = 'Traceback (most recent call last):\n  File "x"\n    y\nKeyError: 1\n\n'
    assert last_lines(text, 3) == ["  KeyError: 1"]


def test_the_last_lines_are_bounded() -> None:
    assert last_lines("a\nb\nc\n", 2) == ["  b", "  c"]
    assert last_lines("  in\n", 2) == ["    in"]
    assert last_lines("", 2) == []
    assert len(last_lines("x" * 5000, 2)[0]) < 400


def test_a_colour_in_the_last_lines_ends_with_them() -> None:
    assert last_lines("\x1b[31mred", 1) == ["  \x1b[31mred\x1b[0m"]


def _all_kinds(kind: type[HakuRiverError]) -> list[type[HakuRiverError]]:
    return [kind, *(one for below in kind.__subclasses__() for one in _all_kinds(below))]


@pytest.mark.parametrize(
    "kind", [one for one in _all_kinds(HakuRiverError) if one.__module__ == "hakuriver.errors"]
)
def test_every_error_of_ours_can_be_shown_in_brief(kind: type[HakuRiverError]) -> None:
    parents: dict[type[HakuRiverError], tuple[object, ...]] = {
        InvalidRequest: ("field", "what went wrong")
    }
    arguments = ("what went wrong", RESULT) if issubclass(kind, TaskError) else ("what went wrong",)
    error = kind(*parents.get(kind, arguments))
    made = brief(error, ["more"])
    assert isinstance(made, kind)
    assert shown(made).endswith("what went wrong\nmore")
