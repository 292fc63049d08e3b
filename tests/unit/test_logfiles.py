from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hakuriver import logfiles
from hakuriver.logfiles import TaskFiles, open_log, tail_offset

if TYPE_CHECKING:
    from pathlib import Path


def tail_of(path: Path, lines: int) -> bytes:
    descriptor = open_log(path)
    assert descriptor is not None
    try:
        content = path.read_bytes()
        return content[tail_offset(descriptor, lines, len(content)) :]
    finally:
        os.close(descriptor)


def test_where_the_files_of_a_task_lie(tmp_path: Path) -> None:
    files = TaskFiles(tmp_path)
    assert files.log(7, "stdout") == tmp_path / "task_outputs" / "7.out"
    assert files.log(7, "stderr") == tmp_path / "task_errors" / "7.err"
    assert files.script(7) == tmp_path / "scripts" / "7"


def test_the_folders_are_for_their_owner_alone(tmp_path: Path) -> None:
    root = tmp_path / "deep" / "er"
    for _ in range(2):
        TaskFiles(root).make()
    for folder in [root, root.parent, *root.iterdir()]:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_log_that_is_not_there_yet(tmp_path: Path) -> None:
    assert open_log(tmp_path / "7.out") is None
    assert open_log(tmp_path / "gone" / "7.out") is None


def test_nothing_is_read_through_a_link_or_from_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"s")
    (tmp_path / "link").symlink_to(tmp_path / "secret")
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "dangling", "folder", "pipe"):
        with pytest.raises(PermissionError):
            open_log(tmp_path / name)


@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    deadline=None,
)
@given(
    content=st.lists(st.sampled_from([b"\n", b"a", b"bb", b"\r", b"\xc3"]), max_size=40).map(
        b"".join
    ),
    lines=st.integers(0, 12),
    block=st.integers(1, 7),
)
def test_a_tail_is_the_last_lines(content: bytes, lines: int, block: int, tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(content)
    parts = content.split(b"\n")
    whole = [part + b"\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logfiles, "_BLOCK", block)
        assert tail_of(path, lines) == b"".join(whole[-lines:] if lines else [])


def test_a_large_log_is_read_from_its_end(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("wb") as file:
        file.truncate(1 << 32)
        file.seek(0, os.SEEK_END)
        file.write(b"\none\ntwo\n")
    descriptor = open_log(path)
    assert descriptor is not None
    assert tail_offset(descriptor, 2, path.stat().st_size) == (1 << 32) + 1
    os.close(descriptor)
