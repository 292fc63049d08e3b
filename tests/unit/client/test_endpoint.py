from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from hakuriver.client.endpoint import embedded_endpoint, embedded_file, resolve
from hakuriver.config import Config, Network, Security
from hakuriver.errors import ConfigError, HostUnreachable

if TYPE_CHECKING:
    from pathlib import Path

FILE = """
[network]
host_reachable_address = "head"
host_port = 9000
[security.tokens]
alice = "alices"
default = "the-default"
"""


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the tests away from the user's own files."""
    (tmp_path / "run").mkdir(mode=0o700)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "config.toml"
    path.write_text(FILE, "utf-8")
    return str(path)


def embed(**facts: object) -> None:
    path = embedded_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"url": "http://127.0.0.1:7000", "token": "embedded", **facts}))
    path.chmod(0o600)


def found(url: str | None = None, **options: object) -> tuple[str, str]:
    options.setdefault("environ", {})
    there = resolve(url, **options)  # type: ignore[arg-type]
    return there.url, there.token


def test_arguments_come_first(config: str) -> None:
    environ = {
        "HAKURIVER_URL": "http://env:1",
        "HAKURIVER_TOKEN": "env",
        "HAKURIVER_CONFIG": config,
    }
    assert found("http://arg:1/", token="arg", environ=environ) == ("http://arg:1", "arg")


def test_then_the_environment(config: str) -> None:
    environ = {
        "HAKURIVER_URL": "http://env:1",
        "HAKURIVER_TOKEN": "env",
        "HAKURIVER_CONFIG": config,
    }
    embed()
    assert found(environ=environ) == ("http://env:1", "env")


def test_then_the_file(config: str) -> None:
    embed()
    assert found(environ={"HAKURIVER_CONFIG": config}) == ("http://head:9000", "the-default")


def test_then_the_embedded_cluster(tmp_path: Path) -> None:
    embed()
    there = resolve(environ={})
    assert (there.url, there.token) == ("http://127.0.0.1:7000", "embedded")
    assert there.embedded
    (tmp_path / ".hakuriver").mkdir()
    (tmp_path / ".hakuriver" / "config.toml").write_text(FILE, "utf-8")
    assert found()[0] == "http://head:9000"


def test_variables_without_a_file_name_a_host_too() -> None:
    embed()
    environ = {"HAKURIVER_NETWORK_HOST_REACHABLE_ADDRESS": "head"}
    assert found(environ=environ) == ("http://head:8000", "")
    assert found(environ={**environ, "HAKURIVER_TOKEN": "env"}) == ("http://head:8000", "env")
    environ = {"HAKURIVER_NETWORK_HOST_PORT": "7000"}
    assert found(environ=environ) == ("http://127.0.0.1:7000", "embedded")


def test_else_it_is_told_how_to_get_a_host() -> None:
    with pytest.raises(HostUnreachable, match="hakuriver up"):
        resolve(environ={})


def test_a_configuration_that_is_named_goes_before_the_environment(config: str) -> None:
    environ = {"HAKURIVER_URL": "http://env:1", "HAKURIVER_TOKEN": "env"}
    assert found(config=config, environ=environ) == ("http://head:9000", "the-default")
    with pytest.raises(ConfigError, match="no file"):
        resolve(config="/no/such/file", environ={})


def test_a_configuration_may_be_given_whole() -> None:
    config = Config(network=Network(host_port=5), security=Security(tokens={"bob": "bobs"}))
    assert found(config=config) == ("http://127.0.0.1:5", "bobs")
    assert found(config=Config()) == ("http://127.0.0.1:8000", "")


def test_a_files_token_goes_to_its_own_host_alone(config: str) -> None:
    environ = {"HAKURIVER_CONFIG": config}
    embed()
    assert found("http://head:9000/", environ=environ) == ("http://head:9000", "the-default")
    assert found("http://elsewhere:9000", environ=environ) == ("http://elsewhere:9000", "")
    assert found("http://127.0.0.1:7000", environ=environ) == ("http://127.0.0.1:7000", "embedded")


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_runtime_file_that_others_may_write_is_not_trusted(mode: int) -> None:
    embed()
    embedded_file().chmod(mode)
    assert embedded_endpoint() is None


def test_a_runtime_file_of_somebody_else_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    embed()
    monkeypatch.setattr(os, "getuid", lambda: 4321)
    assert embedded_endpoint() is None


def test_a_runtime_file_that_is_a_link_or_broken_is_not_read(tmp_path: Path) -> None:
    assert embedded_endpoint() is None
    embed(url=3)
    assert embedded_endpoint() is None
    embedded_file().write_text("{", "utf-8")
    assert embedded_endpoint() is None
    embed()
    embedded_file().rename(tmp_path / "real")
    embedded_file().symlink_to(tmp_path / "real")
    assert embedded_endpoint() is None


def test_a_runtime_folder_that_cannot_be_used_makes_no_noise(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "absent"))
    assert embedded_file().name == "embedded.json"


def test_the_token_is_in_no_representation() -> None:
    embed()
    assert "token" not in repr(resolve(environ={}))


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_the_authority_of_file_or_variable_goes_with_every_https_address(
    tmp_path: Path, scheme: str
) -> None:
    path = tmp_path / "c.toml"
    path.write_text('[network]\nhost_reachable_address = "head"\ntls_ca = "/file.pem"\n', "utf-8")
    environ = {"HAKURIVER_CONFIG": str(path)}
    found = resolve(environ=environ)
    assert (found.url, found.tls_ca) == ("https://head:8000", "/file.pem")
    found = resolve(f"{scheme}://other:1", token="t", environ=environ)
    assert found.tls_ca == ("/file.pem" if scheme == "https" else "")
    assert resolve("http://h:1", token="t", environ=environ).trust() is None
    environ = {"HAKURIVER_NETWORK_TLS_CA": "/env.pem", "HAKURIVER_URL": "https://h:1"}
    assert resolve(environ=environ).tls_ca == "/env.pem"


def test_whom_to_trust_does_not_say_where_the_host_is() -> None:
    with pytest.raises(HostUnreachable, match="nothing says where"):
        resolve(environ={"HAKURIVER_NETWORK_TLS_CA": "/env.pem"})
