from __future__ import annotations

import os
import pwd
import re
import shlex
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hakuriver.cli import init
from hakuriver.cli.umbrella import main as umbrella
from support.unit_files import parse_unit, unit_words

if TYPE_CHECKING:
    from collections.abc import Callable

#: An ordinary account of every Debian.
DAEMON = "daemon"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [*os.environ]:
        if name.startswith("HAKURIVER_") or name in {"SUDO_USER", "XDG_STATE_HOME"}:
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / "work dir"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return tmp_path


@pytest.fixture
def command(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    del home

    def call(*words: str, by: str = DAEMON) -> tuple[int, str, str]:
        uid = pwd.getpwnam(by).pw_uid
        monkeypatch.setattr(os, "geteuid", lambda: uid)
        try:
            code = init.main(["service", *words])
        except SystemExit as ended:
            code = int(ended.code or 0)
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return call


@pytest.fixture
def config_file(home: Path) -> Path:
    path = home / ".hakuriver" / "config.toml"
    assert init.write_config(path)
    path.write_text(path.read_text("utf-8").replace('"process"', '"service"'), "utf-8")
    return path


def test_a_file_is_written_where_one_stands(
    command: Callable[..., tuple[int, str, str]], config_file: Path
) -> None:
    code, out, _ = command("--host")
    file = Path("hakuriver-host.service").absolute()
    assert (code, out.splitlines()[0]) == (0, str(file))
    assert out.splitlines()[2].strip() == (
        f"sudo cp '{file}' /etc/systemd/system/ && sudo systemctl daemon-reload && "
        "sudo systemctl enable --now hakuriver-host.service"
    )
    made = parse_unit(file.read_text("utf-8"))["Service"]
    assert made["User"] == [DAEMON]
    assert unit_words(made["ExecStart"][0][1:]) == [
        *(sys.executable, "-m", "hakuriver", "host", "-c", str(config_file))
    ]
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_no_secret_is_written_or_shown(
    command: Callable[..., tuple[int, str, str]], config_file: Path
) -> None:
    text = config_file.read_text("utf-8")
    secrets = re.findall(r'^(?:runner_secret|default) = "(.+)"', text, re.MULTILINE)
    assert len(secrets) == 2
    shown = "".join(command("--host")[1:]) + Path("hakuriver-host.service").read_text("utf-8")
    assert not [secret for secret in secrets if secret in shown]


def test_what_is_there_is_never_overwritten(
    command: Callable[..., tuple[int, str, str]], config_file: Path, home: Path
) -> None:
    folder = home / "new" / "units"
    first = command("--host", "--output-dir", str(folder))
    file = folder / "hakuriver-host.service"
    text = file.read_text("utf-8")
    again = command("--host", "--output-dir", str(folder))
    assert (first[0], again[0]) == (0, 0)
    assert again[1].splitlines() == [f"{file}: unchanged", *first[1].splitlines()[1:]]
    file.write_text("mine", "utf-8")
    code, out, err = command("--host", "--output-dir", str(folder))
    assert (code, out) == (2, "")
    assert f"{file} is there already and says otherwise" in err
    assert file.read_text("utf-8") == "mine"
    file.unlink()
    file.symlink_to(home / "nothing")
    assert command("--host", "--output-dir", str(folder))[0] == 2
    assert not (home / "nothing").exists()
    assert [path.name for path in folder.iterdir()] == [file.name]
    file.unlink()
    assert command("--host", "--output-dir", str(folder))[0] == 0
    assert file.read_text("utf-8") == text
    assert command("--host", "--output-dir", str(config_file))[0] == 2


def test_without_a_configuration_it_says_what_makes_one(
    command: Callable[..., tuple[int, str, str]], home: Path
) -> None:
    path = home / ".hakuriver" / "config.toml"
    code, out, err = command("--host")
    assert (code, out) == (2, "")
    assert f"there is no file {path}: `hakuriver.init` makes one" in err
    assert "`hakuriver token --node NAME`" in command("--runner")[2]
    path.parent.mkdir()
    (path.parent / "runner-node1.toml").touch()
    assert f"-c {path.parent}/runner-node1.toml" in command("--runner")[2]
    assert f"no file {home}/x.toml" in command("--host", "-c", str(home / "x.toml"))[2]
    assert not [*Path.cwd().iterdir()]


def test_the_file_in_use_is_the_one_named(
    command: Callable[..., tuple[int, str, str]], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.toml", "b.toml"):
        init.write_config(home / name)
    monkeypatch.setenv("HAKURIVER_CONFIG", str(home / "a.toml"))
    assert command("--host", "--output-dir", "a")[0] == 0
    # A relative path is made whole, since the service starts elsewhere.
    assert command("--host", "-c", "../b.toml", "--output-dir", "b")[0] == 0
    for name in ("a", "b"):
        made = parse_unit(Path(name, "hakuriver-host.service").read_text("utf-8"))["Service"]
        assert unit_words(made["ExecStart"][0][1:])[-1] == str(home / f"{name}.toml")


def test_a_bad_configuration_is_told_now_and_not_at_boot(
    command: Callable[..., tuple[int, str, str]], config_file: Path
) -> None:
    config_file.write_text("[network]\nhost_prot = 1\n", "utf-8")
    code, _, err = command("--host")
    assert code == 2
    assert "network.host_prot" in err


def test_root_needs_an_account_for_a_host(
    command: Callable[..., tuple[int, str, str]],
    config_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = ("-c", str(config_file))
    for given in (("--host", *file), ("--host", "--account", "root", *file)):
        code, _, err = command(*given, by="root")
        assert code == 2
        assert "--account NAME" in err
    monkeypatch.setenv("SUDO_USER", "root")
    assert command("--host", *file, by="root")[0] == 2
    monkeypatch.setenv("SUDO_USER", DAEMON)
    code, out, _ = command("--host", *file, by="root")
    assert code == 0
    assert "sudo cp" in out
    unit_text = Path("hakuriver-host.service").read_text("utf-8")
    assert parse_unit(unit_text)["Service"]["User"] == [DAEMON]
    # Its own file then, not root's.
    code, _, err = command("--host", by="root")
    assert code == 2
    assert f"no file {pwd.getpwnam(DAEMON).pw_dir}/.hakuriver/config.toml" in err


def test_root_is_a_runners_default_and_sudo_no_part_of_it(
    command: Callable[..., tuple[int, str, str]], config_file: Path
) -> None:
    text = config_file.read_text("utf-8")
    config_file.write_text(text.replace('# state_dir = ""', 'state_dir = "/var/lib/hakuriver"'))
    code, out, err = command("--runner", by="root")
    assert (code, err) == (0, "")
    assert "sudo" not in out
    made = parse_unit(Path("hakuriver-runner.service").read_text("utf-8"))["Service"]
    assert "User" not in made
    assert made["StateDirectory"] == ["hakuriver"]


def test_an_account_can_be_named_and_must_be_there(
    command: Callable[..., tuple[int, str, str]], config_file: Path
) -> None:
    file = ("-c", str(config_file))
    assert command("--runner", "--account", DAEMON, *file, by="root")[0] == 0
    made = parse_unit(Path("hakuriver-runner.service").read_text("utf-8"))["Service"]
    assert made["User"] == [DAEMON]
    code, _, err = command("--runner", "--account", "nobody-has-this-name", *file)
    assert code == 2
    assert "there is no account nobody-has-this-name" in err


def test_an_ordinary_users_runner_is_told_its_sudo_rule(
    command: Callable[..., tuple[int, str, str]], config_file: Path
) -> None:
    code, out, _ = command("--runner")
    assert code == 0
    rule = f"{DAEMON} ALL=(ALL) NOPASSWD: /usr/bin/systemd-run, /usr/bin/systemctl"
    assert f"  echo '{rule}' | sudo tee /etc/sudoers.d/hakuriver" in out
    assert "sudo visudo -cf /etc/sudoers.d/hakuriver" in out
    assert "as powerful as root" in out
    config_file.write_text('[runner]\nlauncher = "process"\n', "utf-8")
    assert "visudo" not in command("--runner", "--output-dir", "p")[1]
    assert "visudo" not in command("--host", "--output-dir", "p")[1]


def test_units_of_ones_own_go_where_systemd_looks(
    command: Callable[..., tuple[int, str, str]],
    config_file: Path,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    del config_file
    entry = pwd.struct_passwd((DAEMON, "x", 1, 1, "", str(home), "/bin/sh"))
    monkeypatch.setattr(pwd, "getpwuid", {os.geteuid(): entry, 1: entry}.__getitem__)
    code, out, _ = command("--host", "--user")
    file = home / ".config/systemd/user/hakuriver-host.service"
    assert (code, out.splitlines()[0]) == (0, str(file))
    assert parse_unit(file.read_text("utf-8"))["Install"]["WantedBy"] == ["default.target"]
    start = "systemctl --user daemon-reload && systemctl --user enable --now hakuriver-host.service"
    assert f"  {start}\n" in out
    assert f"loginctl enable-linger {DAEMON}" in out
    _, out, _ = command("--host", "--user", "--output-dir", "else where")
    copied = shlex.quote(str(Path("else where", file.name).absolute()))
    assert f"mkdir -p {file.parent} && cp {copied} {file.parent}/ && {start}\n" in out


@pytest.mark.parametrize(
    ("given", "by"),
    [
        ((), DAEMON),
        (("--host", "--runner"), DAEMON),
        (("--host", "--user", "--account", DAEMON), DAEMON),
        (("--host", "--user"), "root"),
        (("--runner", "--user"), "root"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    command: Callable[..., tuple[int, str, str]],
    config_file: Path,
    given: tuple[str, ...],
    by: str,
) -> None:
    code, out, err = command(*given, "-c", str(config_file), by=by)
    assert (code, out) == (2, "")
    assert err
    assert not [*Path.cwd().iterdir()]


def test_what_the_service_would_miss_is_said(
    command: Callable[..., tuple[int, str, str]],
    config_file: Path,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HAKURIVER_NETWORK_HOST_PORT", "443")
    monkeypatch.setenv("XDG_STATE_HOME", str(home))
    code, _, err = command("--host")
    assert code == 0
    assert "HAKURIVER_NETWORK_HOST_PORT, XDG_STATE_HOME: set here but not for the service" in err
    made = parse_unit(Path("hakuriver-host.service").read_text("utf-8"))["Service"]
    assert "AmbientCapabilities" not in made
    assert str(home) not in made["ReadWritePaths"][0].replace(str(config_file), "")


def test_a_file_that_the_account_cannot_read_is_said(
    command: Callable[..., tuple[int, str, str]], config_file: Path
) -> None:
    # The file is this test's user's, with mode 0600.
    _, _, err = command("--host", "-c", str(config_file), "--account", "games")
    assert f"games cannot read {config_file}: see owner and mode of " in err


def test_init_alone_and_the_umbrella_do_as_before(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert umbrella(["init"]) == 0
    assert capsys.readouterr().out == f"{home}/.hakuriver/config.toml\n"
    with pytest.raises(SystemExit) as ended:
        umbrella(["init", "service", "--help"])
    assert ended.value.code == 0
    assert "--output-dir" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        init.main(["--help"])
    assert "init service" in capsys.readouterr().out
