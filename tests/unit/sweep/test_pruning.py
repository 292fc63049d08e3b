from __future__ import annotations

import fcntl
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from hakuriver import Sweep
from hakuriver.sweep import pruning
from hakuriver.sweep.journal import Journal, journals_folder
from hakuriver.sweep.pruning import prune_journals
from hakuriver.sweep.records import Ended
from support.journals import HEADER

FINISHED: dict[int, int | None] = {0: 0, 1: 0, 2: 0}
OLD_ID, NEW_ID = "20260101-000000-abcdef", "20260101-000000-0123abcde"


def make(
    folder: Path, *, codes: dict[int, int | None], days: float, sweep_id: str = NEW_ID
) -> Path:
    path = folder / f"{sweep_id}.jsonl"
    with Journal.create(path, replace(HEADER, sweep_id=sweep_id)) as journal:
        for index, code in codes.items():
            value = {"exit_code": 0, "x": 1}
            journal.add(Ended(index, code, 0.5, 12.25, tail='\n{"e":1,"exit_code":0,', value=value))
    age(path, days)
    return path


def age(path: Path, days: float) -> None:
    moment = time.time() - days * 86_400
    os.utime(path, (moment, moment), follow_symlinks=False)


@pytest.mark.parametrize(
    ("codes", "days", "stays"),
    [
        (FINISHED, 179.9, True),
        (FINISHED, 180.1, False),
        ({2: 0, 0: 0}, 180.1, True),
        ({2: 0, 0: 0}, 364.9, True),
        ({2: 0, 0: 0}, 365.1, False),
        ({}, 364.9, True),
        ({}, 365.1, False),
        ({0: 0, 1: 0, 2: 1}, 180.1, True),
        ({0: 0, 1: 0, 2: None}, 180.1, True),
        (FINISHED, -1000, True),
    ],
)
@pytest.mark.parametrize("sweep_id", [OLD_ID, NEW_ID])
def test_how_long_a_journal_stays(
    tmp_path: Path, *, codes: dict[int, int | None], days: float, stays: bool, sweep_id: str
) -> None:
    path = make(tmp_path, codes=codes, days=days, sweep_id=sweep_id)
    prune_journals(tmp_path)
    assert path.exists() is stays


@pytest.mark.parametrize(("last", "stays"), [(0, False), (1, True)])
def test_the_last_end_of_a_combination_counts(tmp_path: Path, *, last: int, stays: bool) -> None:
    path = make(tmp_path, codes={**FINISHED, 1: 1 - last}, days=0)
    with Journal.open(path) as journal:
        journal.add(Ended(1, last, 0.5, 13.25))
        journal.add(Ended(0, 0, 0.5, 13.25))
    age(path, 181)
    prune_journals(tmp_path)
    assert path.exists() is stays


@pytest.mark.parametrize("codes", [{}, FINISHED])
def test_one_that_is_held_stays(tmp_path: Path, codes: dict[int, int | None]) -> None:
    path = make(tmp_path, codes=codes, days=500)
    with Journal.open(path):
        prune_journals(tmp_path)
        assert path.exists()
    age(path, 500)
    prune_journals(tmp_path)
    assert not path.exists()


@pytest.mark.parametrize("codes", [{}, FINISHED])
def test_one_that_was_held_until_now_is_as_young_as_what_was_written(
    tmp_path: Path, codes: dict[int, int | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make(tmp_path, codes=codes, days=500)
    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", lambda *_: age(path, 1))
        prune_journals(tmp_path)
    assert path.exists()


def test_what_is_no_journal_of_ours_stays(tmp_path: Path) -> None:
    elsewhere = make(tmp_path / "elsewhere", codes=FINISHED, days=500)
    folder = tmp_path / "sweeps"
    journal = make(folder, codes=FINISHED, days=500, sweep_id=OLD_ID)
    names = [
        "mine.jsonl",
        f"{NEW_ID}.jsonl.bak",
        f".{NEW_ID}.jsonl.7",
        f"a{NEW_ID}.jsonl",
        f"{NEW_ID[:-1]}G.jsonl",
    ]
    for name in names:
        own = journal.read_bytes().replace(OLD_ID.encode(), Path(name).stem.encode())
        (folder / name).write_bytes(own)
    # A copy bears another id than its name says.
    (folder / "20260102-000000-abcdef.jsonl").write_bytes(journal.read_bytes())
    other = {
        "20260103-000000-abcdef.jsonl": b"",
        "20260104-000000-abcdef.jsonl": b'{"a": 1}\n',
        "20260105-000000-abcdef.jsonl": b"\xff\x00",
        "20260106-000000-abcdef.jsonl": journal.read_bytes().replace(
            b'"hakurun": 1', b'"hakurun": 2'
        ),
    }
    for name, content in other.items():
        (folder / name).write_bytes(content)
    (folder / "20260107-000000-abcdef.jsonl").mkdir()
    os.mkfifo(folder / "20260108-000000-abcdef.jsonl")
    (folder / elsewhere.name).symlink_to(elsewhere)
    for path in folder.iterdir():
        age(path, 500)
    before = sorted(folder.iterdir())
    prune_journals(folder)
    assert sorted([*folder.iterdir(), journal]) == before
    assert elsewhere.exists()


def test_an_end_whose_line_is_torn_does_not_count(tmp_path: Path) -> None:
    path = make(tmp_path, codes={0: 0, 1: 0}, days=0)
    with path.open("ab") as file:
        file.write(b'{"e":2,"exit_code":0,"sec')
    age(path, 181)
    prune_journals(tmp_path)
    assert path.exists()


def test_one_of_many_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning, "_PART", 7)
    unfinished = make(tmp_path, codes={**FINISHED, 1: 1}, days=181)
    finished = make(tmp_path, codes=FINISHED, days=181, sweep_id=OLD_ID)
    prune_journals(tmp_path)
    assert (unfinished.exists(), finished.exists()) == (True, False)


def test_a_damaged_one_stops_nothing(tmp_path: Path) -> None:
    damaged = make(tmp_path, codes=FINISHED, days=0, sweep_id=OLD_ID)
    with damaged.open("ab") as file:
        file.write(b'{"e":77,"exit_code":0,"seconds":1}\n[]\n')
    age(damaged, 181)
    whole = make(tmp_path, codes=FINISHED, days=181)
    prune_journals(tmp_path)
    assert (damaged.exists(), whole.exists()) == (True, False)
    age(damaged, 366)
    prune_journals(tmp_path)
    assert not damaged.exists()


def test_a_folder_that_is_not_there_is_no_error(tmp_path: Path) -> None:
    prune_journals(tmp_path / "nosuch")


def test_a_new_sweep_among_the_others_prunes_and_no_other_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    Sweep(["true", "span:[1,2]"], name="here").run()
    old = make(journals_folder(), codes=FINISHED, days=181)
    beside = make(tmp_path, codes=FINISHED, days=181)
    Sweep.resume("here").run()
    Sweep(["true"], journal=tmp_path / "mine.jsonl").run()
    assert old.exists()
    sweep = Sweep(["true", "span:[1,2]"])
    assert old.exists()
    sweep.run()
    assert not old.exists()
    assert beside.exists()
    assert sweep.path.exists()
