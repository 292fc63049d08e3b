from __future__ import annotations

import io
import unicodedata
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from hakuriver.cli.shared.tables import Table, show, wants_colours

if TYPE_CHECKING:
    import pytest

NODES = Table(
    ("node", "status", "cores"),
    (("n1", "online", "4"), ("longer", "offline", "16")),
    frozenset({2}),
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_columns_line_up_and_numbers_end_together() -> None:
    assert NODES.render().split("\n") == [
        "node    status   cores",
        "n1      online       4",
        "longer  offline     16",
    ]


def test_without_a_head_it_is_a_list() -> None:
    assert Table((), (("task", "1"), ("status", "done"))).render() == "task    1\nstatus  done"
    assert Table((), ()).render() == ""
    assert Table(("a", "b"), ()).render() == "a  b"


def test_the_widest_column_gives_way() -> None:
    table = Table(("id", "command"), (("123", "x" * 50),))
    lines = table.render(width=20).split("\n")
    assert lines[1] == "123  " + "x" * 14 + "…"


@given(
    st.lists(st.tuples(st.text(max_size=30), st.text(max_size=30)), min_size=1, max_size=5),
    st.integers(20, 80),
)
def test_no_cell_breaks_out_of_its_line(rows: list[tuple[str, str]], width: int) -> None:
    text = Table(("a", "b"), tuple(rows)).render(width=width)
    assert len(text.split("\n")) == 1 + len(rows)
    for line in text.split("\n"):
        assert line.isprintable()
        # Signs that stand above others take no column of their own.
        assert sum(not unicodedata.combining(char) for char in line) <= width


def test_what_could_write_on_the_terminal_is_shown_as_an_escape() -> None:
    text = Table(("name",), (("\x1b[31mred\x07\nline\x9b",),)).render()
    assert text == "name\n\\x1b[31mred\\x07\\nline\\x9b"


def test_wide_characters_take_two_columns() -> None:
    lines = Table(("name", "x"), (("漢字", "1"), ("e\u0301", "2"))).render().split("\n")
    assert lines == ["name  x", "漢字  1", "e\u0301     2"]


def test_colours_are_for_terminals_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    plain, terminal, asked = io.StringIO(), Terminal(), Terminal()
    show(NODES, plain)
    show(NODES, terminal)
    monkeypatch.setenv("NO_COLOR", "1")
    show(NODES, asked)
    assert plain.getvalue() == NODES.render() + "\n"
    assert "\x1b[32monline\x1b[0m" in terminal.getvalue()
    assert "\x1b" not in asked.getvalue()
    assert not wants_colours({"TERM": "dumb"})


def test_a_terminals_width_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "12")
    terminal = Terminal()
    show(Table(("command",), (("x" * 50,),)), terminal)
    assert "x" * 11 + "…" in terminal.getvalue()
