from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hakuriver.errors import InvalidRequest
from hakuriver.model.quantities import (
    MAX_DURATION,
    MAX_MEMORY,
    format_duration,
    format_memory,
    parse_duration,
    parse_memory,
)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1),
        ("512M", 512 << 20),
        ("4G", 4 << 30),
        ("4GiB", 4 << 30),
        ("4gb", 4 << 30),
        ("1.5G", 3 << 29),
        (" 2 k ", 2048),
        ("100B", 100),
        ("1024P", MAX_MEMORY),
        ("1T", 1 << 40),
    ],
)
def test_memory_counts_in_powers_of_1024(text: str, size: int) -> None:
    assert parse_memory(text) == size


@given(st.integers(1, MAX_MEMORY))
def test_a_plain_number_of_bytes_is_exact(size: int) -> None:
    assert parse_memory(str(size)) == size


@given(st.integers(1, 1 << 50))
def test_a_written_size_reads_as_about_the_same(size: int) -> None:
    # Two decimals are off by 0.005 of a unit at most, and reading cuts off parts of a byte.
    assert abs(parse_memory(format_memory(size)) - size) <= 0.005 * size + 1


@pytest.mark.parametrize(
    "text",
    ["", "0", "0.4", "-1", "+1", "G", "1X", "1,5G", "1e3", "4 G B", "1025P", "٣", "nan", "9" * 400],
)
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_memory(text)
    assert caught.value.field == "memory"


@given(st.text(max_size=20))
def test_any_text_is_a_size_or_refused(text: str) -> None:
    with suppress(InvalidRequest):
        assert 1 <= parse_memory(text) <= MAX_MEMORY


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1, "1 B"), (100, "100 B"), (1024, "1 KiB"), (3 << 29, "1.5 GiB")],
)
def test_sizes_for_people(size: int, text: str) -> None:
    assert format_memory(size) == text


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("15m", 900), ("2h", 7200), ("1d", 86400), (" 1.5 H ", 5400)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "-1", "1w", "1h30m", "inf", "9" * 400, "3651d", "1e2"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_duration(text)
    assert caught.value.field == "duration"


@given(st.floats(0.1, MAX_DURATION))
def test_a_written_duration_tells_the_two_largest_units(seconds: float) -> None:
    text = format_duration(seconds)
    if seconds < 59.95:
        assert text == f"{seconds:.1f} s"
        return
    parts = text.split()
    assert 1 <= len(parts) <= 2
    total = sum(parse_duration(part) for part in parts)
    # The unit below the second one shown is left out.
    assert 0 <= round(seconds) - total < 3600


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.44, "0.4 s"), (200, "3m 20s"), (187_200, "2d 4h"), (3600, "1h"), (86_459, "1d")],
)
def test_durations_for_people(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
