from __future__ import annotations

import tracemalloc
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hakuriver.errors import InvalidRequest
from hakuriver.sweep.plan import Plan
from hakuriver.sweep.spans import SpanError, parse_word

if TYPE_CHECKING:
    from pathlib import Path


def words_of(word: str) -> list[str]:
    plan = Plan.of([word])
    return [plan[index].arguments[0] for index in range(len(plan))]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("span:{1..3}", "1 2 3"),
        ("span:{3..1}", "3 2 1"),
        ("span:{08..11}", "08 09 10 11"),
        ("span:{-1..1}", "-1 0 1"),
        ("span:{-01..1}", "-01 000 001"),
        ("span:{0..10..2}", "0 2 4 6 8 10"),
        ("span:{0..9..-4}", "0 4 8"),
        ("span:{7..7}", "7"),
        ("span:{a..e..2}", "a c e"),
        ("span:{C..A}", "C B A"),
        ("span:{0.1..0.5..0.1}", "0.1 0.2 0.3 0.4 0.5"),
        ("span:{1..0..0.5}", "1.0 0.5 0.0"),
        ("span:{0..1.05..0.5}", "0.0 0.5 1.0"),
        ("span:{-.5..0.5..0.5}", "-0.5 0.0 0.5"),
        ("span:[a,b]", "a b"),
        ("span:[ a , b c ]", "a|b c"),
        ('span:[a,"c,d","",\'e]\',"\\"q\\""]', 'a|c,d||e]|"q"'),
        ("--lr=span:[1,2]x", "--lr=1x --lr=2x"),
        ("span:{1..2}-span:{a..b}", "1-a 1-b 2-a 2-b"),
        (r"\span:{1..2}", "span:{1..2}"),
        ("life\\span:5", "lifespan:5"),
        ("no spans here: {1..2}", "no spans here: {1..2}|"),
    ],
)
def test_a_span_gives_its_values_in_order(word: str, expected: str) -> None:
    if expected.endswith("|"):
        assert words_of(word) == [expected[:-1]]
    else:
        assert words_of(word) == expected.split("|" if "|" in expected else " ")


def test_all_letters() -> None:
    assert "".join(words_of("span:{A..Z}")) == "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@pytest.mark.parametrize(
    ("word", "place", "reason"),
    [
        ("span:{1..3", 10, "closing }"),
        ("x=span:{1,2}", 8, "span:[a,b]"),
        ("span:{1..x}", 9, "'x' is no number"),
        ("span:{1..5..0}", 12, "not 0"),
        ("span:{0.1..0.5}", 14, "need a step"),
        ("span:{a..Z}", 9, "same case"),
        ("span:{}", 6, "{first..last}"),
        ("span:[a,b", 9, "closing ]"),
        ("span:[]", 6, "no item"),
        ("span:[a,,b]", 8, "no item"),
        ('span:["a', 6, "not closed"),
        ('span:["a"b]', 9, "comma"),
        ("span:@", 6, "missing"),
        ("span:@/nowhere/at/all", 6, "No such file"),
        ("span:", 5, "goes on with"),
        ("span:7", 5, "goes on with"),
        ("span:{0..1..0.0000000000000000001}", 12, "no number"),
        (f"span:{{0..{'9' * 18}..0.{'0' * 17}1}}", 29, "too many"),
    ],
)
def test_a_malformed_span_is_refused_at_its_place(word: str, place: int, reason: str) -> None:
    with pytest.raises(SpanError, match=r".*") as caught:
        parse_word(word)
    assert caught.value.place == place
    assert reason in str(caught.value)


def test_the_lines_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "names"
    file.write_bytes(b"one\r\n\ntwo words\n\xff\nlast")
    assert words_of(f"--in=span:@{file}") == [
        "--in=one",
        "--in=two words",
        "--in=\udcff",
        "--in=last",
    ]
    file.write_text("\n\n")
    with pytest.raises(SpanError, match="no lines"):
        parse_word(f"span:@{file}")


@given(
    first=st.integers(-(10**17), 10**17),
    count=st.integers(1, 50),
    step=st.integers(1, 10**6),
    down=st.booleans(),
)
def test_whole_ranges_are_those_of_python(first: int, count: int, step: int, *, down: bool) -> None:
    size = -step if down else step
    last = first + size * (count - 1)
    assert words_of(f"span:{{{first}..{last}..{step}}}") == [
        str(first + size * at) for at in range(count)
    ]


@given(
    first=st.decimals(-1000, 1000, places=3),
    step=st.decimals("0.001", 10, places=3),
    count=st.integers(1, 40),
)
def test_decimals_are_exact(first: Decimal, step: Decimal, count: int) -> None:
    last = first + step * (count - 1)
    values = words_of(f"span:{{{first}..{last}..{step}}}")
    assert [Decimal(value) for value in values] == [first + step * at for at in range(count)]


@given(st.text(alphabet="span:{}[]@.,\"'\\01aZ- ", max_size=24))
def test_any_text_is_read_or_refused_within_it(word: str) -> None:
    place = 0
    try:
        parse_word(word)
    except SpanError as error:
        place = error.place
    assert 0 <= place <= len(word)


@given(
    st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0")), min_size=1, max_size=6)
)
def test_quoted_items_come_back_as_written(values: list[str]) -> None:
    items = ['"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"' for value in values]
    assert words_of(f"span:[{','.join(items)}]") == values


def test_the_last_span_changes_quickest() -> None:
    plan = Plan.of(["span:{1..2}", "fixed", "span:[a,b]"])
    assert [plan[index].arguments for index in range(len(plan))] == [
        ("1", "fixed", "a"),
        ("1", "fixed", "b"),
        ("2", "fixed", "a"),
        ("2", "fixed", "b"),
    ]
    with pytest.raises(IndexError):
        plan[4]


def test_side_by_side() -> None:
    plan = Plan.of(["span:{1..2}", "span:[a,b]"], side_by_side=True)
    assert [plan[index].values for index in range(len(plan))] == [("1", "a"), ("2", "b")]
    with pytest.raises(InvalidRequest, match="have 2, 3 values"):
        Plan.of(["span:{1..2}", "span:{1..3}"], side_by_side=True)


def test_without_a_span_there_is_one_combination() -> None:
    for side_by_side in (False, True):
        plan = Plan.of(["a", "b"], side_by_side=side_by_side)
        assert [plan[0].arguments, len(plan)] == [("a", "b"), 1]


def test_names_come_from_what_stands_before() -> None:
    words = ["--lr=span:[1,2]", "--seed", "span:{1..2}", "span:{1..2}", "lr=span:[a]"]
    assert Plan.of(words).names == ("lr", "seed", "p3", "lr_4")


def test_the_digest_tells_combinations_apart(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_text("a\nb\n")
    plans = [
        Plan.of(words, side_by_side=side)
        for words, side in [
            (["span:{1..3}"], False),
            (["span:{1..4}"], False),
            (["span:{01..03}"], False),
            (["span:[1,2,3]"], False),
            (["span:{1..3}"], True),
            (["span:{1..3}", ""], False),
            (["a", "b"], False),
            (["ab"], False),
        ]
    ]
    assert len({plan.digest for plan in plans}) == len(plans)
    before = Plan.of([f"span:@{file}"]).digest
    file.write_text("a\nc\n")
    assert Plan.of([f"span:@{file}"]).digest != before


def test_a_million_combinations_take_no_memory() -> None:
    tracemalloc.start()
    plan = Plan.of(["span:{1..1000}", "--x=span:{0.001..1..0.001}"])
    last = None
    for index in range(0, len(plan), 211):
        last = plan[index]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(plan) == 1_000_000
    assert last is not None
    assert plan[999_999].arguments == ("1000", "--x=1.000")
    assert peak < 1_000_000


def test_far_too_many_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="more than"):
        Plan.of(["span:{1..100000000000}", "span:{1..100000000000}"])
