from __future__ import annotations

import re
import stat
import subprocess
import sys
import tomllib
from typing import TYPE_CHECKING

import msgspec
import pytest

from hakuriver.cli.init import main, write_config
from hakuriver.config import Config, default_path, load_config
from hakuriver.host.auth import Gate

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_file_can_be_used_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    path = default_path()
    assert capsys.readouterr().out.strip() == str(path)
    assert (mode(path), mode(path.parent)) == (0o600, 0o700)
    config = load_config(None, {})
    assert len(config.security.runner_secret) >= 32
    assert len(config.security.tokens["default"]) >= 32
    Gate(config)


def test_it_names_every_key_there_is(home: Path) -> None:
    assert write_config(home / "c.toml")
    text = (home / "c.toml").read_text("utf-8")
    keys: set[tuple[str, str]] = set()
    section = ""
    for line in text.splitlines():
        if found := re.match(r"\[([\w.]+)\]", line):
            section = found[1]
        elif found := re.match(r"(?:# )?(\w+) = ", line):
            keys.add((section, found[1]))
    for part in msgspec.structs.fields(Config):
        for key in msgspec.structs.fields(part.type):
            assert (part.name, key.name) in keys or key.name == "tokens"
    known = {
        (part.name, key.name)
        for part in msgspec.structs.fields(Config)
        for key in msgspec.structs.fields(part.type)
    }
    assert keys <= known | {("security.tokens", "default")}


def test_the_defaults_that_it_shows_are_the_defaults(home: Path) -> None:
    write_config(home / "c.toml")
    text = (home / "c.toml").read_text("utf-8")
    uncommented = re.sub(r"(?m)^# (?=\w+ = )", "", text)
    shown = msgspec.convert(tomllib.loads(uncommented), Config)
    own = {"security": shown.security, "runner": msgspec.structs.replace(shown.runner)}
    assert shown == msgspec.structs.replace(Config(), **own)


def test_each_has_its_own_secrets(home: Path) -> None:
    write_config(home / "a.toml")
    write_config(home / "b.toml")
    first, second = load_config(str(home / "a.toml"), {}), load_config(str(home / "b.toml"), {})
    assert first.security.runner_secret != second.security.runner_secret
    assert first.security.tokens != second.security.tokens


def test_what_is_there_is_never_touched(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = home / "c.toml"
    path.write_text("mine", "utf-8")
    assert main(["-c", str(path)]) == 0
    assert path.read_text("utf-8") == "mine"
    assert "exists already" in capsys.readouterr().out
    (home / "link.toml").symlink_to(home / "nothing")
    assert not write_config(home / "link.toml")
    assert not (home / "nothing").exists()
    assert sorted(file.name for file in home.iterdir()) == ["c.toml", "link.toml"]


def test_two_at_once_make_one_whole_file(home: Path) -> None:
    path = home / "deep" / "c.toml"
    command = [sys.executable, "-m", "hakuriver", "init", "-c", str(path)]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    ended = [process.communicate(timeout=30) for process in running]
    assert [process.returncode for process in running] == [0] * 4, ended
    assert sorted("exists already" in out for out, _ in ended) == [False, True, True, True]
    assert load_config(str(path), {}).security.tokens
    assert [file.name for file in path.parent.iterdir()] == ["c.toml"]


def test_secrets_are_not_shown(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["-c", str(home / "c.toml")])
    shown = capsys.readouterr()
    config = load_config(str(home / "c.toml"), {})
    for secret in (config.security.runner_secret, config.security.tokens["default"]):
        assert secret not in shown.out + shown.err


@pytest.mark.parametrize("path", ["{home}/file/c.toml", "~nobody-has-this-name/c.toml"])
def test_where_nothing_can_be_written_is_told_in_one_line(
    home: Path, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "file").write_bytes(b"")
    assert main(["-c", path.format(home=home)]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert len(shown.err.splitlines()) == 1
    assert "c.toml" in shown.err
    assert [file.name for file in home.iterdir()] == ["file"]


def test_usage() -> None:
    for arguments, code in ((["--help"], 0), (["--version"], 0), (["--nothing"], 2), (["x"], 2)):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == code
