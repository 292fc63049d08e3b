from __future__ import annotations

import json
from pathlib import Path

import pytest

from hakuriver.sweep.worker import call, converters, load


def plain(one: object, two: object = "b") -> list[object]:
    return [one, two]


def typed(number: int, *rest: float, flag: bool = False) -> list[object]:
    return [number, *rest, flag]


def exits(code: str) -> None:
    raise SystemExit(int(code) if code.isdecimal() else code or None)


def test_arguments_are_text_whatever_they_look_like() -> None:
    convert = converters(plain)
    assert convert(["1", "0.5"]) == ["1", "0.5"]
    assert convert(["true"]) == ["true"]


def test_annotations_decide_in_every_call() -> None:
    assert converters(typed)(["1", "2", "3"]) == [1, 2.0, 3.0]

    def one(flag: bool, path: Path, other: list[int]) -> None: ...  # noqa: FBT001

    assert converters(one)(["no", "x", "[1]"]) == [False, Path("x"), "[1]"]


def test_what_is_no_such_value_exits_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(typed, converters(typed), ["x"]) == {"code": 2}
    assert "number: 'x' is no int" in capsys.readouterr().err
    assert call(typed, converters(typed), []) == {"code": 2}
    assert "missing a required argument: 'number'" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "code"), [("4", 4), ("", 0), ("why", 1), ("256", 0)])
def test_an_exit_is_that_of_a_program(text: str, code: int) -> None:
    assert call(exits, list, [text]) == {"code": code}


def test_an_exception_exits_1_with_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(int, list, ["x"]) == {"code": 1}
    assert "ValueError: invalid literal" in capsys.readouterr().err


def test_the_value_is_one_that_json_can_hold() -> None:
    assert call(plain, list, ["a"]) == {"code": 0, "value": ["a", "b"]}
    assert call(load("builtins:float"), list, ["nan"]) == {"code": 0, "value": "nan"}
    long = call(lambda: "x" * 20_000, list, [])["value"]
    assert isinstance(long, str)
    assert len(json.dumps(long)) <= 10_002
