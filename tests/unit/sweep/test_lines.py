from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hakuriver.sweep import lines
from hakuriver.sweep.lines import LineBuffer
from hakuriver.sweep.records import Ended, tail_of


@given(st.lists(st.binary(max_size=20).map(lambda data: data.replace(b"x", b"\n"))))
def test_nothing_is_lost_and_only_whole_lines_go_out(pieces: list[bytes]) -> None:
    buffer = LineBuffer()
    written = [buffer.add(piece) for piece in pieces]
    assert all(not each or each.endswith(b"\n") for each in written)
    whole = b"".join(pieces)
    rest = buffer.flush()
    ended = whole if whole.endswith(b"\n") or not whole else whole + b"\n"
    assert b"".join(written) + rest == ended


def test_a_line_without_end_is_cut() -> None:
    buffer = LineBuffer()
    size = lines.MAX_LINE // 4
    written = [buffer.add(b"x" * size) for _ in range(5)]
    assert written[:4] == [b""] * 4
    assert written[4] == b"x" * (5 * size) + b"\n"
    assert len(buffer.tail) == 4000


def test_the_last_line_is_the_last_that_is_not_blank() -> None:
    tail = tail_of(b"x" * 5000 + b"\n one \xff\n\n  \n")
    assert Ended(0, 0, 1.0, 1.0, tail=tail).last_line == "one \ufffd"
    assert len(tail) <= 1000
