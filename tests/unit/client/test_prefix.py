from __future__ import annotations

import re
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from hakuriver.client.prefix import LinePrefixer

SOURCES = ("n1", "n2", "n3")
PLAIN = st.text(st.characters(blacklist_characters="\r", max_codepoint=0x2FF), max_size=20)
CHUNKS = st.lists(st.tuples(st.sampled_from(SOURCES), PLAIN), max_size=30)


def run(chunks: list[tuple[str, str]]) -> str:
    prefixer = LinePrefixer()
    return "".join(prefixer.add(*chunk) for chunk in chunks) + prefixer.flush()


@given(CHUNKS)
def test_every_line_goes_out_once_whole_and_with_its_source(chunks: list[tuple[str, str]]) -> None:
    written = run(chunks)
    assert written == "" or written.endswith("\n")
    lines = written.split("\n")[:-1]
    for source in SOURCES:
        text = "".join(text for name, text in chunks if name == source)
        expected = text.split("\n")
        if not expected[-1]:
            expected.pop()
        prefix = f"{source}: "
        assert [line.removeprefix(prefix) for line in lines if line.startswith(prefix)] == expected


@given(st.text("ab\r\n", max_size=40), st.lists(st.integers(0, 40), max_size=8))
def test_where_the_chunks_are_cut_changes_nothing(text: str, cuts: list[int]) -> None:
    places = sorted({0, len(text), *(cut for cut in cuts if cut <= len(text))})
    pieces = [text[start:end] for start, end in pairwise(places)]
    assert run([("n1", piece) for piece in pieces]) == run([("n1", text)])


def on_terminal(written: str) -> list[str]:
    """Return the lines that a terminal shows after `written`."""
    lines = [""]
    column = 0
    for piece in re.split(r"([\r\n])", written):
        if piece == "\n":
            lines.append("")
        if piece in {"\r", "\n"}:
            column = 0
        else:
            lines[-1] = lines[-1][:column] + piece + lines[-1][column + len(piece) :]
            column += len(piece)
    return [line.rstrip() for line in lines]


@given(st.lists(st.tuples(st.sampled_from(SOURCES), st.text("ab \r\n", max_size=10)), max_size=30))
def test_a_terminal_shows_whole_lines_even_over_progress_bars(
    chunks: list[tuple[str, str]],
) -> None:
    written = run(chunks)
    *shown, last = on_terminal(written)
    assert last == ""
    assert all(re.match(r"n[123]:", line) for line in shown)
    for source in SOURCES:
        text = "".join(text for name, text in chunks if name == source).replace("\r\n", "\n")
        finished = [line.rpartition("\r")[2] for line in text.split("\n")[:-1]]
        lines = [line.removeprefix(f"{source}:") for line in shown if line.startswith(source)]
        places = iter(lines)
        assert all(f" {line}".rstrip() in places for line in finished)


def test_a_progress_bar_updates_its_line() -> None:
    prefixer = LinePrefixer()
    assert prefixer.add("n1", " 10%\r 20%\r") == "\rn1:  10%"
    assert prefixer.add("n1", "100%\n") == "\rn1:  20%\rn1: 100%\n"
    assert prefixer.flush() == ""


def test_a_bar_that_begins_with_its_return_is_shown_too() -> None:
    prefixer = LinePrefixer()
    assert prefixer.add("n1", "\r 10%") == ""
    assert prefixer.add("n1", "\r100%\n") == "\rn1:  10%\rn1: 100%\n"


def test_a_shorter_line_covers_the_bar_below() -> None:
    prefixer = LinePrefixer()
    prefixer.add("n1", "a long bar\rx")
    assert prefixer.add("n2", "hi\n") == "\rn2: hi        \n"


def test_newlines_of_other_systems_are_plain_ones() -> None:
    prefixer = LinePrefixer()
    assert prefixer.add("n1", "one\r") == ""
    assert prefixer.add("n1", "\ntwo\r\n") == "n1: one\nn1: two\n"


def test_one_source_can_be_flushed_alone() -> None:
    prefixer = LinePrefixer()
    prefixer.add("n1", "one")
    prefixer.add("n2", "two")
    assert prefixer.flush("n1") == "n1: one\n"
    assert prefixer.flush() == "n2: two\n"
