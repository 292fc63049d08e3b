from __future__ import annotations

from base64 import b64decode
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hakuriver.host.text import Cutter
from hakuriver.model.views import LogLine

CUTS = st.lists(st.integers(0, 200), max_size=12)


def pieces(content: bytes, cuts: list[int]) -> list[bytes]:
    bounds = [0, *sorted(min(cut, len(content)) for cut in cuts), len(content)]
    return [content[low:high] for low, high in pairwise(bounds)]


def lines_of(content: bytes, cuts: list[int], *, start: int = 0) -> list[LogLine]:
    cutter = Cutter(start)
    lines = [line for piece in pieces(content, cuts) for line in cutter.feed(piece)]
    lines += cutter.flush()
    assert cutter.offset == start + len(content)
    assert cutter.flush() == []
    return lines


def content_of(line: LogLine) -> bytes:
    assert (line.data is None) != (line.b64 is None)
    return line.data.encode() if line.data is not None else b64decode(line.b64 or "")


@given(st.binary(max_size=80) | st.text(max_size=40).map(str.encode), CUTS, st.integers(0, 1 << 40))
def test_whatever_is_cut_is_whole_again(content: bytes, cuts: list[int], start: int) -> None:
    position = start
    for line in lines_of(content, cuts, start=start):
        assert line.offset == position
        assert content_of(line)
        position += len(content_of(line))
    parts = [content_of(line) for line in lines_of(content, cuts, start=start)]
    assert b"".join(parts) == content


@given(st.text(max_size=60), CUTS)
def test_text_stays_text_wherever_it_is_cut(text: str, cuts: list[int]) -> None:
    lines = lines_of(text.encode(), cuts)
    assert all(line.data is not None for line in lines)
    assert "".join(line.data or "" for line in lines) == text


@given(st.lists(st.text(max_size=5).map(str.encode) | st.binary(max_size=3), max_size=8), CUTS)
def test_bytes_that_are_no_text_go_as_base64_alone(parts: list[bytes], cuts: list[int]) -> None:
    for line in lines_of(b"".join(parts), cuts):
        if line.b64 is not None:
            with pytest.raises(UnicodeDecodeError):
                b64decode(line.b64).decode()


@pytest.mark.parametrize("character", ["é", "€", "😀"])
def test_a_character_waits_until_it_is_whole(character: str) -> None:
    cutter, encoded = Cutter(7), character.encode()
    for index in range(len(encoded) - 1):
        assert cutter.feed(encoded[index : index + 1]) == []
        # What is kept has not been sent: a new subscription begins at its first byte.
        assert cutter.offset == 7
    assert cutter.feed(encoded[-1:]) == [LogLine(offset=7, data=character)]


def test_no_more_than_three_bytes_wait() -> None:
    cutter = Cutter(0)
    assert cutter.feed(b"\x80" * 10) != []
    assert cutter.feed(b"\xf0\x9f\x98") == []
    assert cutter.feed(b"x")[0].b64 is not None


def test_a_file_that_shrank_begins_anew() -> None:
    cutter = Cutter(100)
    cutter.feed(b"abc\xe2\x82")
    cutter.reset()
    assert cutter.feed(b"x") == [LogLine(offset=0, data="x")]
