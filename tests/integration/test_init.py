from __future__ import annotations

import stat
import tomllib
from typing import TYPE_CHECKING, Any

import msgspec

from hakuriver.config import Config, load_config
from support.processes import clean_environment, run_hakuriver

if TYPE_CHECKING:
    from pathlib import Path


def _init(home: Path, *, check: int | None = 0) -> tuple[str, Path]:
    done = run_hakuriver("init", env=clean_environment(home), cwd=home.parent, check=check)
    return done.stdout + done.stderr, home / ".hakuriver" / "config.toml"


def test_init_writes_a_private_file_and_prints_its_path(tmp_path: Path) -> None:
    shown, path = _init(tmp_path / "home")
    assert str(path) in shown
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) & 0o077 == 0


def test_init_names_every_key_of_every_section(tmp_path: Path) -> None:
    _, path = _init(tmp_path / "home")
    text = path.read_text("utf-8")
    for section in msgspec.structs.fields(Config):
        for key in msgspec.structs.fields(section.type):
            assert key.name in text, f"{section.name}.{key.name}"
    assert load_config(str(path), {}).network.host_port == 8000


def test_init_makes_fresh_secrets_each_time_it_is_asked_on_a_new_home(tmp_path: Path) -> None:
    secrets: list[dict[str, Any]] = []
    for name in ("first", "second"):
        shown, path = _init(tmp_path / name)
        security = tomllib.loads(path.read_text("utf-8"))["security"]
        assert len(security["runner_secret"]) >= 32
        assert len(security["tokens"]["default"]) >= 32
        assert security["runner_secret"] not in shown
        assert security["tokens"]["default"] not in shown
        secrets.append(security)
    assert secrets[0]["runner_secret"] != secrets[1]["runner_secret"]
    assert secrets[0]["tokens"] != secrets[1]["tokens"]
    assert secrets[0]["tokens"]["default"] != secrets[0]["runner_secret"]


def test_init_never_overwrites_and_says_so(tmp_path: Path) -> None:
    _, path = _init(tmp_path / "home")
    before = path.read_bytes(), path.stat().st_mtime_ns
    shown, _ = _init(tmp_path / "home", check=None)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    assert str(path) in shown
    assert any(word in shown for word in ("unchanged", "exists", "already")), shown
