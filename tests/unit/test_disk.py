from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from hakuriver.disk import Taken, lock_alone, make_private

if TYPE_CHECKING:
    from pathlib import Path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_missing_folders_are_made_for_their_owner_alone(tmp_path: Path) -> None:
    make_private(tmp_path / "a" / "b" / "c")
    assert {mode(tmp_path / "a"), mode(tmp_path / "a/b"), mode(tmp_path / "a/b/c")} == {0o700}


def test_what_exists_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(mode=0o755)
    make_private(tmp_path / "a")
    make_private(tmp_path / "a" / "b")
    assert (mode(tmp_path / "a"), mode(tmp_path / "a/b")) == (0o755, 0o700)


def test_a_file_in_the_way_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "file", tmp_path / "file" / "a"):
        with pytest.raises(OSError, match="file"):
            make_private(path)


def test_a_locked_file_names_its_holder_until_it_is_closed(tmp_path: Path) -> None:
    lock = lock_alone(tmp_path / "lock")
    with pytest.raises(Taken) as caught:
        lock_alone(tmp_path / "lock")
    assert caught.value.pid == str(os.getpid())
    os.close(lock)
    os.close(lock_alone(tmp_path / "lock"))
