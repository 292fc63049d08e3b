from __future__ import annotations

import json
import os
import stat
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from hakuriver.cli import runner, token
from hakuriver.config import Config, Network, Paths, Runner, Security, load_config
from hakuriver.model.auth import runner_token

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Join = Callable[..., tuple[int, str, str]]

SECRET = "the-hosts-own-secret"


class Host(BaseHTTPRequestHandler):
    """Checks tokens as a host does."""

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        name = url.query.removeprefix("name=")
        given = self.headers["Authorization"].removeprefix("Bearer ")
        if url.path != "/api/runner/check":
            self.answer(404, {"detail": "no such path"})
        elif given != runner_token(SECRET, name):
            self.answer(401, {"detail": "wrong token"})
        else:
            self.answer(200, {"node": name, "cluster_id": "c", "version": "1"})

    def answer(self, status: int, document: object) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        del format, args


@pytest.fixture
def port() -> Iterator[int]:
    with HTTPServer(("127.0.0.1", 0), Host) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("HAKURIVER_CONFIG", raising=False)
    return tmp_path


@pytest.fixture
def join(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Join:
    del home

    class Replaced(Exception):  # noqa: N818 - it is no error
        pass

    def execv(program: str, arguments: list[str]) -> None:
        sys.stdout.write(f"exec {' '.join(arguments[2:])}\n")
        raise Replaced(program)

    monkeypatch.setattr(os, "execv", execv)

    def call(*arguments: str) -> tuple[int, str, str]:
        try:
            code = runner.main(arguments)
        except Replaced:
            code = 0
        except SystemExit as leave:
            code = int(leave.code or 0)
        return (code, *capsys.readouterr())

    return call


def line(port: int, name: str = "n3", secret: str = SECRET) -> list[str]:
    url = f"http://127.0.0.1:{port}"
    return ["--join", url, "--name", name, "--token", runner_token(secret, name)]


def test_the_pasted_line_makes_a_node_that_starts(join: Join, home: Path, port: int) -> None:
    code, out, err = join(*line(port))
    path = home / ".hakuriver" / "runner-n3.toml"
    assert code == 0
    assert "plain processes" in err
    assert "systemd does not run this machine" in err
    assert str(path) in out.splitlines()[0]
    assert out.splitlines()[-1] == f"exec hakuriver runner -c {path}"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    token_ = runner_token(SECRET, "n3")
    assert load_config(str(path), {}) == Config(
        network=Network(host_reachable_address="127.0.0.1", host_port=port),
        runner=Runner(name="n3", launcher="process"),
        security=Security(runner_token=token_),
    )
    assert token_ not in out


def test_options_go_with_it(join: Join, home: Path, port: int) -> None:
    path = home / "own.toml"
    (home / "shared").mkdir()
    options = ("-c", str(path), "--shared-dir", str(home / "shared"), "--default-workdir", "/w")
    code, out, _ = join(*line(port), *options)
    assert code == 0
    assert out.splitlines()[-1] == f"exec hakuriver runner -c {path} --default-workdir /w"
    assert load_config(str(path), {}).paths == Paths(shared_dir=str(home / "shared"))


def test_pasted_again_it_goes_on_and_another_one_is_not_overwritten(
    join: Join, home: Path, port: int
) -> None:
    path = home / ".hakuriver" / "runner-n3.toml"
    assert join(*line(port))[0] == 0
    text = path.read_text("utf-8") + "\n[timing]\nkill_grace = 1\n"
    path.write_text(text, "utf-8")
    assert "exec" in join(*line(port))[1]
    (home / "shared").mkdir()
    code, out, err = join(*line(port), "--shared-dir", str(home / "shared"))
    assert (code, out) == (2, "")
    assert f"{path} is there already and differs in paths.shared_dir: remove it" in err
    assert path.read_text("utf-8") == text
    path.write_text("no toml", "utf-8")
    assert "is no configuration" in join(*line(port))[2]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--join", "http://127.0.0.1:1", "--name", "n", "--token", "t"], 1, "no host answers at"),
        (["--join", "127.0.0.1:80", "--name", "n", "--token", "t"], 2, "write http://HOST:PORT"),
        (
            ["--join", "http://u:hunter2@h:1", "--name", "n", "--token", "t"],
            2,
            "no name or password",
        ),
        (["--join", "http://h:1", "--name", "a b", "--token", "t"], 2, "no node name"),
        (["--join", "http://h:1", "--name", "n", "--token", "t", "--shared-dir", "/no"], 2, "/no"),
        (["--join", "http://h:1", "--name", "n"], 2, "--token missing"),
        (["--name", "n", "--token", "hunter2"], 2, "--join missing"),
        (["--shared-dir", "/"], 2, "--shared-dir goes with --join"),
    ],
)
def test_mistakes_are_told_and_nothing_is_written(
    join: Join, home: Path, arguments: list[str], code: int, words: str
) -> None:
    ended, out, err = join(*arguments)
    assert (ended, out) == (code, "")
    assert words in err.splitlines()[-1]
    assert "hunter2" not in err
    assert list(home.iterdir()) == []


def test_a_token_for_another_name_is_not_accepted(join: Join, home: Path, port: int) -> None:
    mine = line(port)
    mine[3] = "other"
    code, _, err = join(*mine)
    assert code == 1
    assert "does not accept this token for the node other" in err
    assert "hakuriver token --node other" in err
    assert "restart the host" in err
    assert runner_token(SECRET, "n3") not in err
    assert list(home.iterdir()) == []


def test_the_line_of_one_command_is_the_others(
    join: Join, home: Path, port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    path = home / "c.toml"
    path.touch(0o600)
    path.write_text(f'[network]\nhost_port = {port}\n[security]\nrunner_secret = "{SECRET}"\n')
    assert token.main(["-c", str(path), "--node", "n3"]) == 0
    printed = capsys.readouterr()
    assert printed.out.split() == ["hakuriver.runner", *line(port)]
    assert "set network.host_reachable_address" in printed.err
    assert join(*printed.out.split()[1:])[0] == 0
    assert token.main(["-c", str(path), "--node", "n3", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["command"].split() == printed.out.split()
    assert document["token"] == runner_token(SECRET, "n3")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no security.runner_secret"),
        ('[security]\nrunner_secret = "x"\n[network]\nhost_port = 0', "network.host_port is 0"),
    ],
)
def test_settings_that_nobody_could_join_are_refused(
    home: Path, capsys: pytest.CaptureFixture[str], text: str, words: str
) -> None:
    path = home / "c.toml"
    path.touch(0o600)
    path.write_text(text, "utf-8")
    assert token.main(["-c", str(path), "--node", "n3"]) == 2
    err = capsys.readouterr().err
    assert words in err
    assert str(path) in err
    assert ("hakuriver.init" in err) == (text == "")


@pytest.mark.parametrize(
    ("bind", "reachable", "key"),
    [
        ("0.0.0.0", "head", None),
        ("127.0.0.1", "head", "host_bind_ip"),
        ("0.0.0.0", "localhost", "host_reachable_address"),
    ],
)
def test_an_address_that_others_cannot_reach_is_warned_of(
    home: Path,
    capsys: pytest.CaptureFixture[str],
    bind: str,
    reachable: str,
    key: str | None,
) -> None:
    path = home / "c.toml"
    path.touch(0o600)
    path.write_text(
        f'[network]\nhost_bind_ip = "{bind}"\nhost_reachable_address = "{reachable}"\n'
        '[security]\nrunner_secret = "x"\n',
        "utf-8",
    )
    assert token.main(["-c", str(path), "--node", "n3"]) == 0
    err = capsys.readouterr().err
    assert (f"network.{key}" in err) if key else err == ""


def test_a_file_that_others_can_read_is_warned_of(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = home / "c.toml"
    path.touch(0o644)
    path.write_text('[network]\nhost_bind_ip = "0.0.0.0"\nhost_reachable_address = "head"\n')
    assert token.main(["-c", str(path), "--node", "n3"]) == 2
    assert "chmod" not in capsys.readouterr().err
    (home / "own.key").touch(0o640)
    text = path.read_text() + f'tls_key = "{home / "own.key"}"\n'
    path.write_text(text + '[security]\nrunner_secret = "hunter2"\n', "utf-8")
    assert token.main(["-c", str(path), "--node", "n3"]) == 0
    err = capsys.readouterr().err
    assert err.count(f"chmod 600 {path}") == 1
    assert err.count(f"chmod 600 {home / 'own.key'}") == 1
    assert "hunter2" not in err
