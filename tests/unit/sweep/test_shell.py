from __future__ import annotations

import shlex
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hakuriver.sweep.plan import Plan
from hakuriver.sweep.shell import Unquoted, regroup

if TYPE_CHECKING:
    from pathlib import Path

BASH = shutil.which("bash") or ""


def bash(line: str, cwd: Path | None = None) -> list[str]:
    """Return the arguments that bash makes of `line`."""
    done = subprocess.run(
        [BASH, "-c", f"printf '%s\\0' {line}"],
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
        cwd=cwd,
    )
    return done.stdout.split("\0")[:-1]


def combinations(words: list[str]) -> list[tuple[str, ...]]:
    plan = Plan.of(words)
    return [plan[index].arguments for index in range(len(plan))]


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("span:{1..2} fixed span:[a,b]", ["span:{1..2}", "fixed", "span:[a,b]"]),
        ("a span:{3..1} b", ["a", "span:{3..1}", "b"]),
        ("span:{08..10}", ["span:{08..10}"]),
        ("span:{0..10..5}.txt", ["span:{0..10..5}.txt"]),
        ("--lr=span:{1..2} --wd=span:{1..2}", ["--lr=span:{1..2}", "--wd=span:{1..2}"]),
        ("span:{A..C}", ["span:{A..C}"]),
        ("span:{0.1..0.5..0.1}", ["span:{0.1..0.5..0.1}"]),
        ("span:{-1..1}", ["span:{-1..1}"]),
    ],
)
def test_what_bash_expanded_is_read_as_it_was(line: str, meant: list[str]) -> None:
    words, notes = regroup(bash(line))
    assert words == meant
    assert len(notes) == sum("span:{" in word and "." in word for word in meant) - ("0.1" in line)


@pytest.mark.parametrize(
    "line",
    [
        "span:{1..2} span:{3..4}",
        "span:{1..4}",
        "span:{1..10}",
        "span:{A..Z}",
        "span:{1..1}",
        "span:{1..2} span:{1..2}",
        "span:{1..2} span:{a..b}",
        "span:{1..2}xspan:{1..2}",
        "span:{1..2}span:[a,b]",
        "{a,b}span:{1..2}",
        "span:{1..2}.{txt,csv}",
        "span:{1..2}.txt span:{1..2}.csv",
        "span:{1,2,4}",
        "span:{foo,bar}",
        "span:lone",
    ],
)
def test_what_may_be_meant_otherwise_is_refused_with_a_line_to_paste(line: str) -> None:
    with pytest.raises(Unquoted, match="in quotes") as caught:
        regroup(bash(line), program=["hakurun", "prog"])
    pasted = shlex.split(caught.value.suggestion)
    assert pasted[:2] == ["hakurun", "prog"]


def test_the_line_to_paste_for_one_range_is_that_range() -> None:
    with pytest.raises(Unquoted) as caught:
        regroup(bash("x span:{01..10} 'y z'"), program=["hakurun", "prog"])
    assert caught.value.suggestion == "hakurun prog x 'span:{01..10}' 'y z'"


def test_a_list_that_bash_took_for_names_of_files_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "span:a").touch()
    (tmp_path / "span:b").touch()
    words = bash("span:[a,b,c]", tmp_path)
    assert words == ["span:a", "span:b"]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Unquoted, match="name of a file"):
        regroup(words)


def test_text_that_only_looks_like_it_can_be_written() -> None:
    assert regroup([r"life\span:5"]) == ([r"life\span:5"], [])
    assert combinations([r"life\span:5"]) == [("lifespan:5",)]


# Ranges of one value are left out: nothing tells two of them from one of two values.
_BOUNDS = st.tuples(st.integers(0, 12), st.integers(0, 12)).filter(lambda two: two[0] != two[1])
_WORDS = st.one_of(
    st.builds(
        lambda lead, bounds, tail: f"{lead}span:{{{bounds[0]}..{bounds[1]}}}{tail}",
        st.sampled_from(["", "--a=", "--b=", "x"]),
        _BOUNDS,
        st.sampled_from(["", ".txt", "0"]),
    ),
    st.just("fixed"),
    st.just("span:[a,b]"),
)


@settings(max_examples=25, deadline=None)
@given(st.lists(_WORDS, min_size=1, max_size=4))
def test_an_unquoted_line_runs_as_the_quoted_one_or_not_at_all(line: list[str]) -> None:
    quoted = combinations(line)
    try:
        words, _ = regroup(bash(" ".join(line)))
    except Unquoted:
        return
    assert combinations(words) == quoted
