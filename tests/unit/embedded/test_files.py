from __future__ import annotations

import stat
import tomllib
from typing import TYPE_CHECKING

import pytest

from hakuriver.client.endpoint import embedded_endpoint, embedded_file
from hakuriver.config import load_config
from hakuriver.disk import write_private
from hakuriver.embedded import files
from hakuriver.embedded.processes import Daemon
from hakuriver.errors import StartError

if TYPE_CHECKING:
    from pathlib import Path

FACTS = files.Facts(url="http://127.0.0.1:1", token="t", nodes=["node1"], daemons=[Daemon(1, 2.5)])


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "run").mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_everything_lies_in_the_users_own_folders(folders: Path) -> None:
    assert files.data() == folders / "state" / "hakuriver" / "embedded"
    assert embedded_file().is_relative_to(folders / "run")
    for folder in (files.data(), files.data().parent):
        assert mode(folder) == 0o700


def test_nodes_of_earlier_clusters_are_known() -> None:
    for name in ("host", "node1", "node2", "node3"):
        files.write_settings(name, {})
    assert files.former_nodes(["node1"]) == ["node2", "node3"]
    assert files.former_nodes(["node1", "node2", "node3"]) == []


def test_a_private_file_appears_whole_and_for_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for content in (b"one", b"two" * 100_000, b""):
        write_private(path, content)
        assert path.read_bytes() == content
        assert mode(path) == 0o600
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["file"]


def test_a_file_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_private(path, b"old")

    def broken(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", broken)
    with pytest.raises(OSError, match="space"):
        write_private(path, b"new")
    assert path.read_bytes() == b"old"


def test_facts_are_read_as_written_and_found_by_clients() -> None:
    with files.lock():
        assert files.read_facts() is None
        files.write_facts(FACTS)
    assert files.read_facts() == FACTS
    assert mode(embedded_file()) == 0o600
    assert embedded_endpoint() == (FACTS.url, FACTS.token)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"url": "x"}', b'{"url": "\xff"}', b"\xff"]
)
def test_a_damaged_file_is_as_good_as_none(content: bytes) -> None:
    with files.lock():
        embedded_file().write_bytes(content)
        (files.data() / "secrets.json").write_bytes(content)
        assert files.read_facts() is None
        assert embedded_endpoint() is None
        assert files.kept_secrets() == files.kept_secrets()


def test_secrets_stay_the_same() -> None:
    first = files.kept_secrets()
    assert files.kept_secrets() == first
    assert first.token != first.runner_secret
    assert mode(files.data() / "secrets.json") == 0o600


def test_settings_are_toml_that_the_daemons_can_read() -> None:
    quoted = 'a "quoted" \\ path\twith é'
    path = files.write_settings(
        "host",
        {
            "network": {"host_port": 0},
            "paths": {"state_dir": quoted},
            "timing": {"kill_grace": 0.5},
            "security.tokens": {"default": "t"},
        },
    )
    assert mode(path) == 0o600
    assert tomllib.loads(path.read_text("utf-8"))["paths"]["state_dir"] == quoted
    config = load_config(str(path), {})
    assert (config.paths.state_dir, config.security.tokens) == (quoted, {"default": "t"})


def test_one_caller_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_LOCK_SECONDS", 0.1)
    with files.lock(), pytest.raises(StartError, match="does not end"), files.lock():
        pytest.fail("two have the lock")
    with files.lock():
        assert mode(embedded_file().with_suffix(".lock")) == 0o600


def test_last_words() -> None:
    files.log("host").write_bytes(b"x" * 9000 + b"\xff the end\n")
    words = files.last_words("host")
    assert "the end (log: " in words
    assert len(words) < 3000
    files.log("host").write_bytes(b"")
    assert "it said nothing" in files.last_words("host")
