from __future__ import annotations

import pytest
from IPython.core.error import UsageError

from jupyter_ext.magics.commands import COMMANDS
from jupyter_ext.magics.lines import line_parser, parse_line
from jupyter_ext.magics.parsers import HelpShown


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", "COMMAND"),
        ("nosuch", "nosuch"),
        ("up --nodes 0", "is no whole number above 0"),
        ("up --node 2", "unrecognized arguments: --node"),
        ("logs", "ID"),
        ("logs 1 --tail -1", "--tail"),
        ("connect", "URL"),
        ("attach", "ID"),
        ("drain", "NODE"),
        ("submit", "give a command after --"),
        ("submit --cores 1 --", "give a command after --"),
        ("submit echo", "unrecognized arguments: echo"),
        ("submit --memory lots -- x", "is no size"),
    ],
)
def test_a_bad_command_is_one_line(line: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_line(line, {})
    assert str(caught.value).startswith("%hakuriver")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_command_to_submit_is_not_interpreted() -> None:
    found = parse_line("submit -t node1 --cores 2 -- echo --cores 9 -- '{x}' '$HOME'", {"x": "a b"})
    assert found.target == ["node1"]
    assert found.cores == 2
    assert found.words == ["echo", "--cores", "9", "--", "a b", "$HOME"]


def test_the_help_of_submit_shows_where_the_command_goes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(HelpShown):
        parse_line("submit --help", {})
    shown = capsys.readouterr().out
    assert shown.startswith("usage: %hakuriver submit [options] -- COMMAND ARGS…\n")
    assert "--time-limit" in shown


def test_ids_come_from_names() -> None:
    assert parse_line("wait $one {two}", {"one": 1, "two": 2}).ids == ["1", "2"]
    assert parse_line("wait", {}).ids == []


def test_every_command_has_its_function() -> None:
    [commands] = [
        action.choices
        for action in line_parser()._actions
        if isinstance(action.choices, dict) and "up" in action.choices
    ]
    assert set(commands) == set(COMMANDS)
