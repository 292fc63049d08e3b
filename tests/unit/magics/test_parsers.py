from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st
from IPython.core.error import UsageError

from hakuriver.cli.shared.options import SubmitOptions
from jupyter_ext.magics.parsers import HelpShown, cell_parser, fill, parse


def options(line: str, **names: object) -> SubmitOptions:
    return SubmitOptions.from_namespace(parse(cell_parser(), line, names), {"HOME": "/home/me"})


def test_the_cell_takes_the_clients_options() -> None:
    given_options = options(
        "--target node1:0 -t node2 --cores 2 --memory 4G --time-limit 2h --env A=1 --env HOME "
        "--workdir /w --name 'a name' --private-network"
    )
    assert given_options.targets == ("node1:0", "node2")
    assert given_options.cores == 2
    assert given_options.memory == 4 << 30
    assert given_options.time_limit == 7200
    assert given_options.env == {"A": "1", "HOME": "/home/me"}
    assert given_options.name == "a name"
    assert given_options.private_network


def test_the_cells_own_options() -> None:
    found = parse(cell_parser(), "-o future --shell --no-raise-error", {})
    assert (found.out, found.shell, found.python) == ("future", True, None)
    assert found.no_raise_error
    assert not found.detach
    assert found.on_interrupt == "kill"


def test_a_detached_cell_has_two_names() -> None:
    assert parse(cell_parser(), "--detach", {}).detach
    assert parse(cell_parser(), "--bg --on-interrupt detach", {}).on_interrupt == "detach"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--nosuch", "unrecognized arguments: --nosuch"),
        ("--targ node1", "--targ"),
        ("node1", "unrecognized arguments: node1"),
        ("--target a/b", "is no node name"),
        ("--cores many", "is no whole number"),
        ("--memory lots", "is no size"),
        ("--out a.b", "is no name for a variable"),
        ("--shell --python x", "not allowed with"),
        ("--name 'open", "No closing quotation"),
        ("--on-interrupt wait", "invalid choice"),
    ],
)
def test_a_bad_line_is_one_line_that_says_what(line: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(cell_parser(), line, {})
    message = str(caught.value)
    assert message.startswith("%%hakuriver: ")
    assert words in message
    assert "\n" not in message


def test_help_is_printed_and_ends_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(HelpShown):
        parse(cell_parser(), "--help", {})
    assert "--time-limit" in capsys.readouterr().out


def test_names_are_filled_in() -> None:
    found = options("--target {nodes[0]} --name $label", nodes=["node7"], label="run")
    assert found.targets == ("node7",)
    assert found.name == "run"


@pytest.mark.parametrize(
    ("line", "name"), [("--target {nosuch}", "nosuch"), ("--name $nosuch", "nosuch")]
)
def test_an_unknown_name_is_named_even_beside_known_ones(line: str, name: str) -> None:
    with pytest.raises(UsageError, match=f"name '{name}' is not defined"):
        options(f"{line} --workdir {{known}}", known="/w")


def test_braces_that_hold_no_expression_are_refused_with_the_mend() -> None:
    with pytest.raises(UsageError, match=r"write \{\{ and \}\}"):
        options("--env 'A={}'")


def test_doubled_braces_and_quoted_dollars_stand_for_themselves() -> None:
    assert options("--env 'A={{\"b\": 1}} $HOME'").env == {"A": '{"b": 1} $HOME'}


@given(
    st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="'$"), max_size=99)
)
def test_any_text_can_be_quoted_into_a_line(text: str) -> None:
    line = "--name=" + shlex.quote(text.replace("{", "{{").replace("}", "}}"))
    assert parse(cell_parser(), line, {}).name == text


def test_a_line_without_marks_is_not_touched() -> None:
    assert fill("%x", "--name a%nb\\ c", {}) == "--name a%nb\\ c"
