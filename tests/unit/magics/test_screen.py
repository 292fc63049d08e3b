from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_ext.magics.screen import BURST, PIECE, TICK, WAITING, Held, Screen

if TYPE_CHECKING:
    from hakuriver.model.messages import Stream


class Terminal:
    """What a screen wrote, and a clock that moves when told."""

    def __init__(self) -> None:
        self.now = 100.0
        self.writes: list[tuple[Stream, str]] = []
        self.screen = Screen(
            lambda stream, text: self.writes.append((stream, text)),
            hint=" (see %hakuriver logs 7)",
            clock=lambda: self.now,
        )

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.screen.show()

    def text(self, stream: Stream = "stdout") -> str:
        return "".join(text for name, text in self.writes if name == stream)

    def finish(self) -> None:
        self.screen.finish()
        while self.screen.wait() is not None:
            self.pass_time(TICK)


@pytest.fixture
def terminal() -> Terminal:
    return Terminal()


def test_first_output_appears_at_once(terminal: Terminal) -> None:
    terminal.screen.add("stdout", "hello\n")
    terminal.screen.show()
    assert terminal.writes == [("stdout", "hello\n")]
    assert terminal.screen.wait() is None


def test_what_follows_within_a_tick_is_gathered(terminal: Terminal) -> None:
    for number in range(5):
        terminal.screen.add("stdout", f"{number}\n")
        terminal.screen.show()
        terminal.now += TICK / 10
    wait = terminal.screen.wait()
    assert wait is not None
    assert 0 < wait <= TICK
    terminal.pass_time(wait)
    assert terminal.writes == [("stdout", "0\n"), ("stdout", "1\n2\n3\n4\n")]


def test_both_streams_keep_apart(terminal: Terminal) -> None:
    terminal.screen.add("stdout", "out\n")
    terminal.screen.add("stderr", "\r 50%")
    terminal.screen.show()
    assert terminal.text("stdout") == "out\n"
    assert terminal.text("stderr") == "\r 50%"


def test_a_megabyte_is_shown_whole_in_bounded_messages(terminal: Terminal) -> None:
    text = "".join(f"line {number}\n" for number in range(80_000))
    assert len(text) < WAITING
    terminal.screen.add("stdout", text)
    terminal.screen.show()
    terminal.finish()
    assert terminal.text() == text
    assert max(len(piece) for _, piece in terminal.writes) <= PIECE
    assert not terminal.screen.skipped


def test_a_flood_tells_what_it_left_out_and_shows_its_end(terminal: Terminal) -> None:
    total, shown_before = 0, 0
    for _ in range(300):
        terminal.screen.add("stdout", "".join(f"{total + n}\n" for n in range(20_000)))
        total += 20_000
        terminal.pass_time(TICK)
    shown_before = len(terminal.text())
    terminal.finish()
    text = terminal.text()
    assert shown_before < BURST + 40 * PIECE
    assert text.startswith("0\n1\n")
    assert text.endswith(f"\n{total - 1}\n")
    assert "(see %hakuriver logs 7)" in text
    notes = [line for line in text.splitlines() if "skipped" in line]
    skipped = sum(int(note.split()[1].replace(",", "")) for note in notes)
    lines = sum(line.isdigit() for line in text.splitlines())
    # A line that was cut by a note is shown in part, and counted as skipped.
    assert total <= skipped + lines <= total + len(notes)


def test_steady_output_is_never_held_back(terminal: Terminal) -> None:
    for number in range(5_000):
        terminal.screen.add("stdout", f"{number:4}" + "x" * 95 + "\n")
        terminal.pass_time(TICK)
        assert terminal.screen.wait() is None
    assert not terminal.screen.skipped


def test_a_held_flood_does_not_keep_the_caller_busy(terminal: Terminal) -> None:
    for _ in range(200):
        terminal.screen.add("stdout", "y\n" * PIECE)
        terminal.pass_time(TICK)
    wait = terminal.screen.wait()
    assert wait is not None
    assert wait > 0


def test_a_flood_without_newlines_counts_characters(terminal: Terminal) -> None:
    terminal.screen.add("stdout", "z" * (3 * WAITING))
    terminal.finish()
    assert "characters skipped" in terminal.text()


@given(st.lists(st.text(alphabet="ab\n\r", max_size=30)), st.integers(0, 60))
def test_held_text_loses_only_what_it_counts(pieces: list[str], limit: int) -> None:
    held = Held()
    for piece in pieces:
        held.add(piece)
    whole = "".join(pieces)
    held.trim(limit)
    rest = held.take(len(whole) + 1)
    assert whole.endswith(rest)
    assert len(rest) + held.skipped_size == len(whole)
    assert rest.count("\n") + held.skipped_lines == whole.count("\n")
    assert held.size == 0
