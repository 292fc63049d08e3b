from __future__ import annotations

from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest

from hakuriver.config import Config, default_path, find_config, load_config
from hakuriver.errors import ConfigError


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    return folder


def written(tmp_path: Path, text: str, name: str = "c.toml") -> str:
    path = tmp_path / name
    path.write_text(text, "utf-8")
    return str(path)


def refusal(explicit: str | None, environ: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(explicit, environ or {})
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- which file ---------------------------------------------------------------------------


def test_the_built_in_defaults_hold_without_a_file() -> None:
    assert load_config(None, {}) == Config()
    assert find_config(None, {}) is None


def test_the_option_goes_before_the_variable_and_that_before_the_home(tmp_path: Path) -> None:
    default_path().parent.mkdir()
    for name, port in (("option", 1), ("variable", 2)):
        written(tmp_path, f"[network]\nhost_port = {port}", name)
    default_path().write_text("[network]\nhost_port = 3", "utf-8")
    environ = {"HAKURIVER_CONFIG": str(tmp_path / "variable")}
    assert load_config(str(tmp_path / "option"), environ).network.host_port == 1
    assert load_config(None, environ).network.host_port == 2
    assert load_config(None, {}).network.host_port == 3
    assert load_config("", {"HAKURIVER_CONFIG": ""}).network.host_port == 3


def test_a_file_that_was_named_must_exist(tmp_path: Path) -> None:
    gone = str(tmp_path / "gone.toml")
    assert refusal(gone).startswith("--config: there is no file")
    assert "gone.toml" in refusal(None, {"HAKURIVER_CONFIG": gone})
    assert "HAKURIVER_CONFIG" in refusal(None, {"HAKURIVER_CONFIG": gone})
    assert "hakuriver.init" in refusal(str(tmp_path))


@pytest.mark.parametrize("path", ["x" * 300, "~nobody-has-this-name/c.toml", "/dev/null/c.toml"])
def test_a_path_that_cannot_be_looked_at_is_named(path: str) -> None:
    assert path[:20] in refusal(path)


def test_the_home_folder_is_filled_in(home: Path) -> None:
    (home / "c.toml").write_text("[runner]\nname = 'x'", "utf-8")
    assert load_config("~/c.toml", {}).runner.name == "x"


# -- what is in it ------------------------------------------------------------------------


def test_every_section_is_read(tmp_path: Path) -> None:
    text = """
        [network]
        host_port = 9
        [paths]
        state_dir = "~/s"
        [database]
        db_file = "/db"
        [timing]
        heartbeat_interval = 2
        [runner]
        launcher = "process"
        [security.tokens]
        alice = "t"
    """
    config = load_config(written(tmp_path, text), {})
    assert config.network.host_port == 9
    assert config.state_dir == Path.home() / "s"
    assert config.db_file == Path("/db")
    assert config.timing.heartbeat_interval == 2.0
    assert config.security.tokens == {"alice": "t"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[nothing]\nx = 1", "nothing"),
        ("[network]\nhost_prot = 1", "network.host_prot"),
        ("top = 1", "top"),
        ("network = 1", "network"),
        ("[network]\nhost_port = '8000'", "network.host_port"),
        ("[network]\nhost_port = 70000", "network.host_port"),
        ("[network]\nhost_port = true", "network.host_port"),
        ("[network]\nhost_bind_ip = 1", "network.host_bind_ip"),
        ("[timing]\nheartbeat_interval = 0", "timing.heartbeat_interval"),
        ("[timing]\nkill_grace = nan", "timing.kill_grace"),
        ("[timing]\nkill_grace = inf", "timing.kill_grace"),
        ("[timing]\nkill_grace = 2020-01-01", "timing.kill_grace"),
        ("[runner]\nlauncher = 'docker'", "runner.launcher"),
        ("[security]\nauth = 'no'", "security.auth"),
        ("[security]\ntokens = ['a']", "security.tokens"),
        ("[security.tokens]\nalice = 1", "security.tokens"),
        ("[network", "TOML"),
        ("[network]\nhost_port = 1\nhost_port = 2", "TOML"),
    ],
)
def test_a_key_that_cannot_be_used_is_named_with_its_file(
    tmp_path: Path, text: str, words: str
) -> None:
    path = written(tmp_path, text)
    message = refusal(path)
    assert message.startswith(f"{path}: ")
    assert words in message


def test_a_secret_is_not_repeated_in_the_refusal(tmp_path: Path) -> None:
    text = "[security]\nrunner_secret = ['hunter2']\nrunner_token = 'hunter3'"
    assert "hunter" not in refusal(written(tmp_path, text))


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_bytes(b"[network]\nhost_bind_ip = '\xff'")
    assert refusal(str(path)).startswith(f"{path}: cannot be read as TOML")


# -- the environment ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "text", "place", "value"),
    [
        ("HAKURIVER_NETWORK_HOST_PORT", "9", "network.host_port", 9),
        ("HAKURIVER_NETWORK_HOST_BIND_IP", "::1", "network.host_bind_ip", "::1"),
        ("HAKURIVER_PATHS_SHARED_DIR", "", "paths.shared_dir", ""),
        ("HAKURIVER_TIMING_HEARTBEAT_INTERVAL", "0.5", "timing.heartbeat_interval", 0.5),
        ("HAKURIVER_TIMING_KILL_GRACE", "0", "timing.kill_grace", 0.0),
        ("HAKURIVER_RUNNER_LAUNCHER", "scope", "runner.launcher", "scope"),
        ("HAKURIVER_RUNNER_NAME", "123", "runner.name", "123"),
        ("HAKURIVER_SECURITY_AUTH", "none", "security.auth", "none"),
    ],
)
def test_a_variable_goes_over_the_file(
    tmp_path: Path, variable: str, text: str, place: str, value: Any
) -> None:
    path = written(tmp_path, "[network]\nhost_port = 1\nhost_bind_ip = 'x'\n[runner]\nname='y'")
    config = load_config(path, {variable: text})
    assert attrgetter(place)(config) == value
    assert load_config(None, {variable: text}) != load_config(path, {})


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("HAKURIVER_NETWORK_HOST_PORT", "x"),
        ("HAKURIVER_NETWORK_HOST_PORT", ""),
        ("HAKURIVER_NETWORK_HOST_PORT", "-1"),
        ("HAKURIVER_TIMING_KILL_GRACE", "nan"),
        ("HAKURIVER_TIMING_KILL_GRACE", "inf"),
        ("HAKURIVER_RUNNER_LAUNCHER", "docker"),
        ("HAKURIVER_NETWORK_NOTHING", "1"),
        ("HAKURIVER_SECURITY_TOKENS", "{}"),
    ],
)
def test_a_variable_that_cannot_be_used_is_named(variable: str, text: str) -> None:
    assert refusal(None, {variable: text}).startswith(f"{variable}: ")


def test_variables_that_are_no_settings_are_left_alone() -> None:
    environ = {"HAKURIVER_TASK_ID": "1", "HAKURIVER_NODE": "n", "HAKURIVER_URL": "x", "HOME": "/"}
    assert load_config(None, environ) == Config()


def test_a_variable_with_a_secret_is_not_repeated() -> None:
    config = load_config(None, {"HAKURIVER_SECURITY_RUNNER_SECRET": "s"})
    assert config.security.runner_secret == "s"


# -- what follows from it -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("head", "http://head:8000"),
        ("10.0.0.1", "http://10.0.0.1:8000"),
        ("::1", "http://[::1]:8000"),
    ],
)
def test_where_the_host_is_found(address: str, url: str) -> None:
    environ = {"HAKURIVER_NETWORK_HOST_REACHABLE_ADDRESS": address}
    assert load_config(None, environ).host_url == url


def test_the_database_lies_in_the_state_folder_by_default(tmp_path: Path) -> None:
    config = load_config(None, {"HAKURIVER_PATHS_STATE_DIR": str(tmp_path)})
    assert config.db_file.is_relative_to(tmp_path)


def test_a_folder_of_a_user_that_is_not_there_is_named() -> None:
    config = load_config(None, {"HAKURIVER_PATHS_STATE_DIR": "~nobody-has-this-name/x"})
    with pytest.raises(ConfigError, match="nobody-has-this-name"):
        _ = config.state_dir


# -- retention and log files ---------------------------------------------------------------


def test_how_long_things_are_kept(tmp_path: Path) -> None:
    default = load_config(None, {}).retention
    assert (default.keep_tasks_days, default.keep_logs_days) == (90.0, 30.0)
    path = written(tmp_path, "[retention]\nkeep_tasks_days = 0\nkeep_logs_days = 0.5\n")
    kept = load_config(path, {"HAKURIVER_RETENTION_KEEP_TASKS_DAYS": "7"}).retention
    assert (kept.keep_tasks_days, kept.keep_logs_days) == (7.0, 0.5)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[retention]\nkeep_logs_days = -1", "retention.keep_logs_days"),
        ("[retention]\nkeep_tasks_days = 'ever'", "retention.keep_tasks_days"),
        ("[retention]\nkeep_tasks_days = inf", "retention.keep_tasks_days"),
        ("[retention]\nkeep_tasks_days = nan", "retention.keep_tasks_days"),
        ("[retention]\nkeep_everything = true", "keep_everything"),
        ("[paths]\nhost_log_file = 1", "paths.host_log_file"),
        ("[paths]\nnumactl_path = []", "paths.numactl_path"),
    ],
)
def test_a_bad_retention_or_path_is_named(tmp_path: Path, text: str, key: str) -> None:
    words = refusal(written(tmp_path, text))
    assert key in words
    assert "c.toml" in words


def test_log_files_and_numactl_are_nowhere_by_default(tmp_path: Path) -> None:
    paths = load_config(None, {}).paths
    assert (paths.host_log_file, paths.runner_log_file, paths.numactl_path) == ("", "", "")
    path = written(tmp_path, "[paths]\nhost_log_file = '/h.log'\nrunner_log_file = '/r.log'\n")
    paths = load_config(path, {"HAKURIVER_PATHS_NUMACTL_PATH": "/n"}).paths
    assert (paths.host_log_file, paths.runner_log_file, paths.numactl_path) == (
        "/h.log",
        "/r.log",
        "/n",
    )


@pytest.mark.parametrize(
    ("key", "scheme"), [("tls_cert", "https"), ("tls_ca", "https"), ("tls_key", "http")]
)
def test_the_address_begins_as_the_certificates_say(tmp_path: Path, key: str, scheme: str) -> None:
    config = load_config(written(tmp_path, f'[network]\n{key} = "x"'), {})
    assert config.host_url == f"{scheme}://127.0.0.1:8000"


def test_secrets_are_in_no_representation(tmp_path: Path) -> None:
    text = '[security]\nrunner_secret = "hunter2"\nrunner_token = "hunter3"\n'
    text += '[security.tokens]\nalice = "hunter4"\n'
    assert "hunter" not in repr(load_config(written(tmp_path, text), {}))
