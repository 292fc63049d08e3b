from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hakuriver.model.cpulist import format_cpulist, parse_cpulist


@given(st.sets(st.integers(0, 500)))
def test_a_formatted_list_reads_back(cpus: set[int]) -> None:
    assert parse_cpulist(format_cpulist(cpus)) == tuple(sorted(cpus))


@given(st.text("0123456789-,x \n", max_size=20))
def test_any_text_is_a_list_or_refused(text: str) -> None:
    try:
        cpus = parse_cpulist(text)
    except ValueError:
        return
    assert list(cpus) == sorted(set(cpus))


@pytest.mark.parametrize(
    ("text", "cpus"), [("0-3,8\n", (0, 1, 2, 3, 8)), ("", ()), ("5", (5,)), ("3,1,2-3", (1, 2, 3))]
)
def test_lists_as_the_kernel_writes_them(text: str, cpus: tuple[int, ...]) -> None:
    assert parse_cpulist(text) == cpus


@pytest.mark.parametrize("text", ["3-1", "a", "1,,2", "-1", "1-", "99999999", "1 2"])
def test_what_is_no_list_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no"):
        parse_cpulist(text)


def test_formatting_joins_runs() -> None:
    assert format_cpulist([8, 0, 1, 2, 3, 3]) == "0-3,8"
    assert format_cpulist([3, 1, 2, 8, 10, 11]) == "1-3,8,10-11"
    assert format_cpulist([]) == ""
