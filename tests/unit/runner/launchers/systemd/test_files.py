from __future__ import annotations

import os
import pwd
import stat
import subprocess
from typing import TYPE_CHECKING

import pytest

from hakuriver.runner.launchers.systemd.files import UnitFiles
from hakuriver.runner.launchers.systemd.manager import Account

if TYPE_CHECKING:
    from pathlib import Path

_RECORD = "success exited 0 1000000 4096 - - running\n"


def account() -> Account:
    own = pwd.getpwuid(os.getuid())
    return Account(own.pw_name, own.pw_uid, own.pw_gid, own.pw_dir)


@pytest.fixture
def files(tmp_path: Path) -> UnitFiles:
    made = UnitFiles(tmp_path / "units", account())
    made.make()
    return made


def test_an_order_is_private_until_it_is_read(files: UnitFiles) -> None:
    files.give(7, b'{"argv": []}')
    status = files.order(7).stat()
    assert stat.S_IMODE(status.st_mode) == 0o600
    assert files.given() == {7}
    assert files.started_at(7) is None
    os.truncate(files.order(7), 0)
    assert files.started_at(7) == files.order(7).stat().st_mtime


def test_an_order_can_be_taken_back_until_it_is_read(files: UnitFiles) -> None:
    assert not files.withdraw(7)
    files.give(7, b'{"argv": []}')
    assert files.withdraw(7)
    assert files.given() == set()
    files.give(8, b'{"argv": []}')
    os.truncate(files.order(8), 0)
    assert not files.withdraw(8)
    files.order(8).write_text('{"code": 127, "fault": "no"}')
    assert not files.withdraw(8)


def test_a_record_tells_with_the_word_that_was_left(files: UnitFiles) -> None:
    assert files.read(7) is None
    files.give(7, b"{}")
    files.order(7).write_text('{"code": 127, "fault": "program not found: x", "exit_code": 127}')
    files.record(7).write_text("")
    assert files.read(7) is None
    files.record(7).write_text(_RECORD.replace("success exited 0", "exit-code exited 127"))
    record = files.read(7)
    assert record is not None
    assert (record.exit_code, record.reason) == (127, "program not found: x")
    assert record.completed_at == files.record(7).stat().st_mtime
    assert files.load() == {7: record}


@pytest.mark.parametrize("trick", ["link", "pipe", "garbage", "numbers", "folder"])
def test_a_word_that_is_none_is_not_read(files: UnitFiles, tmp_path: Path, trick: str) -> None:
    other = tmp_path / "other"
    other.write_text('{"code": 0, "fault": "a lie"}')
    path = files.order(7)
    match trick:
        case "link":
            path.symlink_to(other)
        case "pipe":
            os.mkfifo(path)
        case "garbage":
            path.write_bytes(b"\xff{" * 100_000)
        case "numbers":
            path.write_text('{"code": 0, "signal": 99999999999}')
        case _:
            path.mkdir()
    files.record(7).write_text(_RECORD)
    record = files.read(7)
    assert record is not None
    assert (record.exit_code, record.reason) == (0, None)


def test_a_kill_is_noted_before_the_end_alone(files: UnitFiles) -> None:
    assert files.note_kill(7)
    files.record(7).write_text(_RECORD)
    record = files.read(7)
    assert record is not None
    assert record.cause == "killed"
    files.record(8).write_text(_RECORD)
    assert not files.note_kill(8)
    ended = files.read(8)
    assert ended is not None
    assert ended.cause is None


def test_what_is_known_elsewhere_is_dropped(files: UnitFiles) -> None:
    for task_id in (7, 8):
        files.give(task_id, b"{}")
        files.record(task_id).write_text(_RECORD)
    files.note_kill(9)
    assert files.droppable() == {7, 8, 9}
    # Whatever a task of the same user has made of it.
    files.order(10).mkdir()
    (files.order(10) / "file").touch()
    files.drop({7, 8, 10})
    assert files.droppable() == {9}
    assert files.load() == {}
    assert files.given() == set()


def note(files: UnitFiles, root: Path, task_id: int) -> None:
    """Have the script note the end of a unit, as systemd would."""
    state = root / "systemctl"
    state.write_text("#!/bin/sh\necho running\n")
    state.chmod(0o700)
    subprocess.run(
        ["/bin/sh", str(files.script), str(files.record(task_id)), "2.5", "4096"],
        env={
            "PATH": f"{root}:{os.defpath}",
            "SERVICE_RESULT": "oom-kill",
            "EXIT_CODE": "killed",
            "EXIT_STATUS": "KILL",
        },
        check=False,
        stderr=subprocess.DEVNULL,
    )


def test_the_script_notes_what_systemd_tells_it(files: UnitFiles, tmp_path: Path) -> None:
    assert stat.S_IMODE(files.script.stat().st_mode) == 0o600
    note(files, tmp_path, 7)
    record = files.read(7)
    assert record is not None
    assert (record.exit_code, record.cause, record.limit) == (-9, "memory", 4096)
    assert record.sure
    assert record.result == "oom-kill"


@pytest.mark.parametrize("there", [True, False])
def test_the_script_writes_through_no_link(
    files: UnitFiles,
    tmp_path: Path,
    there: bool,  # noqa: FBT001
) -> None:
    guarded = tmp_path / "guarded"
    if there:
        guarded.write_text("as it was")
    files.record(7).symlink_to(guarded)
    note(files, tmp_path, 7)
    assert guarded.exists() is there
    assert not there or guarded.read_text() == "as it was"
    assert files.read(7) is None
