from __future__ import annotations

import re
import stat
import subprocess
import sys
import tomllib
from typing import TYPE_CHECKING

import msgspec
import pytest

from hakuriver import tls
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


# -- with TLS -------------------------------------------------------------------------------


def test_a_new_file_can_be_used_with_tls_as_it_is(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = home / "deep" / "c.toml"
    assert main(["-c", str(path), "--tls", "--host-name", "Head.Example"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == str(path)
    assert "Head.Example, 127.0.0.1" in shown[1]
    config = load_config(str(path), {})
    assert config.host_url == "https://127.0.0.1:8000"
    served = tls.serving(config.network)
    assert served is not None
    assert {"head.example", "localhost"} <= served.names
    assert tls.anchor(config.network) == (path.parent / "tls-ca.pem").read_text()
    files = sorted(file.name for file in path.parent.iterdir())
    assert files == ["c.toml", "tls-ca.key", "tls-ca.pem", "tls-host.key", "tls-host.pem"]
    assert {mode(file) for file in path.parent.iterdir()} == {0o600}


def test_again_it_renews_the_hosts_certificate_alone(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = home / "c.toml"
    main(["-c", str(path), "--tls"])
    changed = path.read_text().replace(
        'host_reachable_address = "127.0.0.1"', 'host_reachable_address = "head.example"'
    )
    path.write_text(changed)
    before = {file.name: file.read_bytes() for file in home.iterdir()}
    capsys.readouterr()
    assert main(["-c", str(path), "--tls"]) == 0
    shown = capsys.readouterr().out
    assert "renewed, restart the host" in shown
    assert "under [network]" not in shown
    after = {file.name: file.read_bytes() for file in home.iterdir()}
    assert {name for name in after if after[name] != before[name]} == {"tls-host.pem"}
    assert mode(home / "tls-host.pem") == 0o600
    served = tls.serving(load_config(str(path), {}).network)
    assert served is not None
    assert "head.example" in served.names


def test_for_a_file_that_is_there_it_says_what_to_write(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = home / "c.toml"
    main(["-c", str(path)])
    before = path.read_bytes()
    capsys.readouterr()
    assert main(["-c", str(path), "--tls"]) == 0
    assert path.read_bytes() == before
    shown = capsys.readouterr().out
    for key in ("tls_cert", "tls_key", "tls_ca"):
        assert re.search(f'(?m)^{key} = "{home}/tls-.*"$', shown)


@pytest.mark.parametrize("name", ["tls-ca.key", "tls-ca.pem"])
def test_half_an_authority_is_told(
    home: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    path = home / "c.toml"
    main(["-c", str(path), "--tls"])
    (home / name).unlink()
    capsys.readouterr()
    assert main(["-c", str(path), "--tls"]) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert name in err
    (home / name).write_text("damaged", "ascii")
    assert main(["-c", str(path), "--tls"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_names_that_are_none_are_refused(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("https://head", "a b", "höst"):
        assert main(["-c", str(home / "c.toml"), "--tls", "--host-name", name]) == 2
        assert "--host-name" in capsys.readouterr().err
    assert not (home / "c.toml").exists()
    with pytest.raises(SystemExit):
        main(["--host-name", "head"])


def test_without_the_package_it_names_the_extra(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "hakuriver.cli.setup.certificates", raising=False)
    monkeypatch.delattr("hakuriver.cli.setup.certificates", raising=False)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    assert main(["-c", str(home / "c.toml"), "--tls"]) == 2
    assert "pip install 'hakuriver-jupyter[tls]'" in capsys.readouterr().err
    assert list(home.iterdir()) == []
