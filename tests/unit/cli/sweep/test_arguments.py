from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from hakuriver.cli.sweep.arguments import parse
from hakuriver.sweep.journal import Journal, journals_folder
from support import journals

if TYPE_CHECKING:
    from pathlib import Path

SWEEP = journals.HEADER.sweep_id


@pytest.fixture(autouse=True)
def _one_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    header = replace(journals.HEADER, name="mine")
    Journal.create(journals_folder() / f"{SWEEP}.jsonl", header).close()


@pytest.mark.parametrize("sweep", ["mine", SWEEP])
@pytest.mark.parametrize(
    ("words", "command"),
    [
        ("--resume {} --fail-fast --jobs 2", []),
        ("--resume --fail-fast --jobs 2 {}", []),
        ("--fail-fast --resume --jobs 2 {}", []),
        ("--resume --fail-fast {} --jobs 2", []),
        ("--resume={} --fail-fast --jobs 2", []),
        ("--resume --fail-fast {} --jobs 2 true span:{{1..3}}", ["true", "span:{1..3}"]),
    ],
)
def test_the_sweep_to_resume_may_stand_behind_other_options(
    sweep: str, words: str, command: list[str]
) -> None:
    given = words.format(sweep).split()
    arguments = parse(given)
    assert arguments.options.resume == sweep
    assert arguments.options.fail_fast
    assert arguments.options.jobs == 2
    assert arguments.command == command
    assert arguments.lead + command == given


@pytest.mark.parametrize(
    ("words", "resume", "command"),
    [
        ("--resume --fail-fast", "", []),
        ("--resume --fail-fast true mine", "", ["true", "mine"]),
        ("--resume mine mine", "mine", ["mine"]),
        ("--resume=mine --fail-fast mine", "mine", ["mine"]),
        ("--resume --fail-fast -- mine", "", ["mine"]),
        ("--resume --name mine true", "", ["true"]),
        ("--fail-fast mine --resume", None, ["mine", "--resume"]),
    ],
)
def test_any_other_word_is_the_program(words: str, resume: str | None, command: list[str]) -> None:
    arguments = parse(words.split())
    assert arguments.options.resume == resume
    assert arguments.command == command
