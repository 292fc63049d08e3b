"""Typed settings from a TOML file and the environment.

The file is ``--config``, else ``$HAKURIVER_CONFIG``, else ``~/.hakuriver/config.toml``, else none.
Over it lie variables named ``HAKURIVER_<SECTION>_<KEY>``. An unknown or ill-typed key is refused
with `ConfigError`, which names where it stood.
"""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import platformdirs
from msgspec import Meta

from hakuriver.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

Port = Annotated[int, Meta(ge=0, le=65535)]
Seconds = Annotated[float, Meta(gt=0, le=86400)]
Days = Annotated[float, Meta(ge=0, le=36500)]


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What all sections share: unknown keys are refused."""


class Network(_Section, frozen=True):
    """Where the host listens, and where the others find it."""

    host_bind_ip: str = "127.0.0.1"
    host_port: Port = 8000
    host_reachable_address: str = "127.0.0.1"
    # The host's own certificate, with those of its authorities after it, and the key to it.
    tls_cert: str = ""
    tls_key: str = ""
    # Whom clients and runners trust: a file, or "system" for the system's authorities.
    tls_ca: str = ""
    # Kept for files of the first public version; nothing listens on a runner.
    runner_address: str = ""
    runner_port: Port = 0


class Paths(_Section, frozen=True):
    """Folders; an empty string stands for none, or for the default that `Config` gives."""

    shared_dir: str = ""
    local_temp_dir: str = ""
    state_dir: str = ""
    numactl_path: str = ""
    host_log_file: str = ""
    runner_log_file: str = ""


class Database(_Section, frozen=True):
    """The host's store."""

    db_file: str = ""


class Timing(_Section, frozen=True):
    """Intervals in seconds; a node is silent after interval times factor."""

    heartbeat_interval: Seconds = 5.0
    heartbeat_timeout_factor: Annotated[float, Meta(ge=1, le=1000)] = 6.0
    cleanup_check_interval: Seconds = 10.0
    kill_grace: Annotated[float, Meta(ge=0, le=86400)] = 5.0


class Runner(_Section, frozen=True):
    """What a runner is called, what it gives out, and how it starts tasks."""

    name: str = ""
    launcher: Literal["auto", "service", "scope", "process"] = "auto"
    run_as_user: str = ""
    cpus: str = ""
    memory: str = ""
    python: str = ""
    tasks_max: Annotated[int, Meta(ge=16, le=4_000_000)] = 4096
    # Of each of a task's two logs; a number of bytes or a size such as "2G", 0 for no cap.
    max_log_bytes: Annotated[int, Meta(ge=0, le=1 << 60)] | str = 0


class Security(_Section, frozen=True):
    """Tokens: named ones for clients, and the secret from which each runner's token is made."""

    auth: Literal["token", "none"] = "token"
    runner_secret: str = ""
    # A runner that was given its own token alone, not the secret.
    runner_token: str = ""
    tokens: dict[str, str] = {}
    # What a host with an empty database calls its cluster, once its first secret was replaced.
    cluster_id: str = ""

    def __repr__(self) -> str:
        # Nothing of it may reach a log or a traceback.
        return f"{type(self).__name__}(auth={self.auth!r}, …)"


class Retention(_Section, frozen=True):
    """For how many days ended tasks, and their logs, are kept; 0 keeps them for ever."""

    keep_tasks_days: Days = 90.0
    keep_logs_days: Days = 30.0

    @property
    def log_days(self) -> float:
        """For how many days logs are kept: they go with their task at the latest; 0 for ever."""
        kept = [days for days in (self.keep_logs_days, self.keep_tasks_days) if days]
        return min(kept, default=0.0)


class Config(_Section, frozen=True):
    """All settings, a section each."""

    network: Network = Network()
    paths: Paths = Paths()
    database: Database = Database()
    timing: Timing = Timing()
    runner: Runner = Runner()
    security: Security = Security()
    retention: Retention = Retention()

    @property
    def state_dir(self) -> Path:
        """The folder for what this machine alone needs; never on a shared home."""
        if self.paths.state_dir:
            return expand(self.paths.state_dir)
        return platformdirs.user_state_path("hakuriver")

    @property
    def db_file(self) -> Path:
        """The host's database file."""
        if self.database.db_file:
            return expand(self.database.db_file)
        return self.state_dir / "host" / "hakuriver.db"

    @property
    def host_url(self) -> str:
        """Where clients and runners find the host."""
        address = self.network.host_reachable_address
        if ":" in address:
            address = f"[{address}]"
        network = self.network
        scheme = "https" if network.tls_cert or network.tls_ca else "http"
        return f"{scheme}://{address}:{network.host_port}"


def default_path() -> Path:
    """Return where `hakuriver.init` puts the file that serves all roles."""
    return Path.home() / ".hakuriver" / "config.toml"


def find_config(explicit: str | None, environ: Mapping[str, str]) -> Path | None:
    """Return the file to read, None if the defaults alone hold; a named file must exist."""
    for named, by in (
        (explicit, "--config"),
        (environ.get("HAKURIVER_CONFIG"), "HAKURIVER_CONFIG"),
    ):
        if named:
            path = expand(named)
            if not _is_file(path):
                raise ConfigError(f"{by}: there is no file {path} (make one with hakuriver.init)")
            return path
    return default_path() if _is_file(default_path()) else None


def expand(text: str) -> Path:
    """Return a path with ``~`` filled in; raise `ConfigError` where there is no such user."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise ConfigError(f"{text}: nobody knows whose home folder that is") from None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be looked at ({error.strerror})") from None


def load_config(explicit: str | None = None, environ: Mapping[str, str] | None = None) -> Config:
    """Return the settings that hold; raise `ConfigError` naming file or variable, and key."""
    environ = os.environ if environ is None else environ
    path = find_config(explicit, environ)
    content: dict[str, Any] = {}
    if path is not None:
        try:
            content = tomllib.loads(path.read_text("utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"{path}: cannot be read as TOML: {error}") from None
        try:
            msgspec.convert(content, Config)
        except msgspec.ValidationError as error:
            raise ConfigError(f"{path}: {_explain(error)}") from None
    _lay_environment(content, environ)
    return msgspec.convert(content, Config)


def _explain(error: msgspec.ValidationError) -> str:
    """Return the message with the key first, as the file spells it."""
    reason, _, path = str(error).partition(" - at `")
    key = path.removesuffix("`").removeprefix("$").removeprefix(".")
    unknown = re.fullmatch(r"Object contains unknown field `(.*)`", reason)
    if unknown:
        return f"unknown key {key}.{unknown[1]}" if key else f"unknown section or key {unknown[1]}"
    return f"{key}: {reason}" if key else reason


def _lay_environment(content: dict[str, Any], environ: Mapping[str, str]) -> None:
    """Lay ``HAKURIVER_<SECTION>_<KEY>`` over `content`; other variables are not ours to judge."""
    for section in msgspec.structs.fields(Config):
        keys = {field.name: field.type for field in msgspec.structs.fields(section.type)}
        prefix = f"HAKURIVER_{section.name.upper()}_"
        for variable in sorted(environ):
            if not variable.startswith(prefix):
                continue
            key = variable.removeprefix(prefix).lower()
            if key not in keys or key == "tokens":
                raise ConfigError(f"{variable}: there is no key {section.name}.{key} to override")
            try:
                value: Any = msgspec.convert(environ[variable], keys[key], strict=False)
            except msgspec.ValidationError as error:
                raise ConfigError(f"{variable}: {_explain(error)}") from None
            content.setdefault(section.name, {})[key] = value
