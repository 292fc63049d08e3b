from __future__ import annotations

import os
import stat
import tomllib
from typing import TYPE_CHECKING

import pytest

from hakuriver.cli import token
from hakuriver.cli.setup.rotating import replace_runner_token, rotate_runner_secret, rotate_token
from hakuriver.errors import ConfigError
from hakuriver.model.auth import cluster_id

if TYPE_CHECKING:
    from pathlib import Path

OLD = "old-value"
PLAIN = f"""\
# {OLD} in a comment, and in a name:
[network]
host_reachable_address = "{OLD}"   # stays

[security]
runner_secret = "secret-of-old"    # kept comment

[security.tokens]
default = "{OLD}"
alice = '{OLD}'
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "c.toml"
    path.touch(0o600)
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize("name", ["default", "alice"])
def test_one_token_changes_and_every_other_byte_stays(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, PLAIN)
    fresh = rotate_token(path, name)
    assert len(fresh) >= 32
    lines, before = path.read_text().splitlines(), PLAIN.splitlines()
    changed = [(old, new) for old, new in zip(before, lines, strict=True) if old != new]
    assert len(changed) == 1
    assert changed[0][1] == f'{name} = "{fresh}"'
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["c.toml"]


@pytest.mark.parametrize(
    "text",
    [
        f'security = {{ tokens = {{ default = "{OLD}" }}, auth = "token" }}\r\n',
        f'security.tokens.default = "{OLD}"',
        f'[security]\ntokens = {{ other = "{OLD}", default = "{OLD}" }}\n',
        f'[security.tokens]\n"default" = "{OLD}"\n# ünïcode\n',
        '[security.tokens]\ndefault = ""\nother = ""\n',
    ],
)
def test_however_the_file_is_written(tmp_path: Path, text: str) -> None:
    path = written(tmp_path, text)
    wanted = tomllib.loads(text)
    wanted["security"]["tokens"]["default"] = rotate_token(path, "default")
    assert tomllib.loads(path.read_bytes().decode()) == wanted
    assert path.read_bytes().count(b"\r") == text.count("\r")


def test_what_cannot_be_changed_in_place_is_left(tmp_path: Path) -> None:
    text = '[security.tokens]\ndefault = "\\u0061bc"\n'
    path = written(tmp_path, text)
    with pytest.raises(ConfigError, match=r"security\.tokens\.default .* line of its own"):
        rotate_token(path, "default")
    assert path.read_text() == text


def test_an_unknown_name_is_told_with_those_there_are(tmp_path: Path) -> None:
    path = written(tmp_path, PLAIN)
    with pytest.raises(ConfigError, match="alice, default") as caught:
        rotate_token(path, "bob")
    assert OLD not in str(caught.value)
    assert path.read_text() == PLAIN


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_the_cluster_keeps_its_name_when_the_runner_secret_changes(
    tmp_path: Path, newline: str
) -> None:
    path = written(tmp_path, PLAIN.replace("\n", newline))
    rotate_runner_secret(path)
    text = path.read_bytes().decode()
    first = tomllib.loads(text)["security"]
    assert first["runner_secret"] != "secret-of-old"
    assert first["cluster_id"] == cluster_id("secret-of-old")
    assert text.count("\n") == text.count(newline) == PLAIN.count("\n") + 1
    assert "# kept comment" in text
    rotate_runner_secret(path)
    second = tomllib.loads(path.read_bytes().decode())["security"]
    assert second["cluster_id"] == first["cluster_id"]
    assert second["runner_secret"] != first["runner_secret"]


def test_a_secret_in_one_line_with_others_is_left(tmp_path: Path) -> None:
    text = 'security = { runner_secret = "s" }\n'
    path = written(tmp_path, text)
    with pytest.raises(ConfigError, match=r"security\.runner_secret"):
        rotate_runner_secret(path)
    assert path.read_text() == text


def test_without_a_line_end_at_the_end(tmp_path: Path) -> None:
    path = written(tmp_path, '[security]\nrunner_secret = "s"')
    rotate_runner_secret(path)
    assert tomllib.loads(path.read_text())["security"]["cluster_id"] == cluster_id("s")


def test_a_nodes_own_token(tmp_path: Path) -> None:
    path = written(tmp_path, '[security]\nrunner_token = "old"\n')
    replace_runner_token(path, "new")
    assert path.read_text() == '[security]\nrunner_token = "new"\n'
    with pytest.raises(ConfigError, match="no security.runner_token"):  # noqa: RUF043
        replace_runner_token(written(tmp_path, ""), "new")


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    path = written(tmp_path, PLAIN)
    (tmp_path / "link.toml").symlink_to(path)
    fresh = rotate_token(tmp_path / "link.toml", "default")
    assert (tmp_path / "link.toml").is_symlink()
    assert fresh in path.read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_the_owner_keeps_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, PLAIN)
    os.chown(path, 1234, 1235)
    rotate_token(path, "default")
    assert (path.stat().st_uid, path.stat().st_gid) == (1234, 1235)


def test_the_command_prints_the_new_token_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, PLAIN)
    assert token.main(["-c", str(path), "--rotate", "alice"]) == 0
    shown = capsys.readouterr()
    fresh = tomllib.loads(path.read_text())["security"]["tokens"]["alice"]
    assert shown.out == f"{fresh}\n"
    assert fresh not in shown.err
    assert "restart the host" in shown.err
    assert token.main(["-c", str(path), "--rotate-runners"]) == 0
    shown = capsys.readouterr()
    assert shown.out == ""
    assert tomllib.loads(path.read_text())["security"]["runner_secret"] not in shown.err
    assert "join anew" in shown.err
    assert token.main(["-c", str(path), "--rotate", "nobody"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_secret_of_the_environment_is_not_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HAKURIVER_SECURITY_RUNNER_SECRET", "hunter2")
    path = written(tmp_path, PLAIN)
    assert token.main(["-c", str(path), "--rotate-runners"]) == 2
    err = capsys.readouterr().err
    assert "HAKURIVER_SECURITY_RUNNER_SECRET" in err
    assert "hunter2" not in err
    assert path.read_text() == PLAIN


@pytest.mark.parametrize(
    "arguments", [[], ["--node", "n", "--rotate", "a"], ["--rotate"], ["--rotate", "a", "b"]]
)
def test_one_thing_at_a_time(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        token.main(arguments)
    assert caught.value.code == 2
