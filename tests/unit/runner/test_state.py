from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from hakuriver.errors import ConfigError, StartError
from hakuriver.runner.state import Identity, StateFolder, boot_id

if TYPE_CHECKING:
    from pathlib import Path


def test_folders_are_for_their_owner_alone(tmp_path: Path) -> None:
    state = StateFolder(tmp_path / "a" / "b")
    state.make()
    state.make()
    for folder in (tmp_path / "a", state.root, state.keeper, state.work):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_folder_that_cannot_be_made_names_the_key(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"paths\.state_dir"):
        StateFolder(tmp_path / "file" / "b").make()


def test_one_runner_a_folder(tmp_path: Path) -> None:
    state = StateFolder(tmp_path)
    lock = state.lock()
    with pytest.raises(StartError, match=f"pid {os.getpid()}"):
        state.lock()
    os.close(lock)
    os.close(state.lock())


def test_an_identity_is_made_once_and_kept(tmp_path: Path) -> None:
    state = StateFolder(tmp_path)
    first = state.identity()
    assert first.cluster_id is None
    assert state.identity() == first
    joined = Identity(node_uid=first.node_uid, cluster_id="c")
    state.remember(joined)
    assert state.identity() == joined
    assert stat.S_IMODE((tmp_path / "node.json").stat().st_mode) == 0o600
    (tmp_path / "node.json").write_text("{")
    with pytest.raises(StartError, match=r"node\.json"):
        state.identity()


def test_the_boot_has_a_name() -> None:
    assert boot_id()
    assert boot_id() == boot_id()
