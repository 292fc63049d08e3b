"""What a unit is made from: whose service it is, where it writes, and how paths are spelt.

Sources: systemd.syntax(7), systemd.exec(5).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hakuriver import tls
from hakuriver.cli.services.sandbox import apart
from hakuriver.config import expand
from hakuriver.errors import ConfigError

if TYPE_CHECKING:
    from hakuriver.config import Config

Role = Literal["host", "runner"]

#: Where systemd makes the state folder of a service.
STATE_DIRECTORY = Path("/var/lib/hakuriver")
_CONTROL = frozenset((*map(chr, range(32)), "\x7f"))


@dataclass(frozen=True, slots=True)
class Account:
    """As whom a service runs."""

    name: str
    uid: int
    gid: int
    home: Path

    @property
    def root(self) -> bool:
        """Whether this is root."""
        return self.uid == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One host or runner.

    `system`: it is for the system's manager, not for the account's own. `config` is what the file
    alone says, since a service has nothing of a shell's environment.
    """

    role: Role
    account: Account
    system: bool
    python: str
    config_file: Path
    config: Config

    @property
    def unit_name(self) -> str:
        """The unit's name."""
        return f"hakuriver-{self.role}.service"

    @property
    def strict(self) -> bool:
        """Whether it can write nowhere but where its unit says."""
        alone = self.account.root and apart(self.config.runner.launcher)
        return self.system and (self.role == "host" or alone)


@dataclass(frozen=True, slots=True)
class Folders:
    """Where a service writes to its state and its log, and what else it uses."""

    state: Path
    log: Path | None
    shared: tuple[Path, ...]

    @property
    def own(self) -> list[Path]:
        """Those that it makes itself."""
        return [self.state] if self.log is None else [self.state, self.log]


def folders_of(service: Service) -> Folders:
    """Return the folders of a service.

    Raises:
        ConfigError: a path is relative, or tasks could not reach the state.
    """
    paths = service.config.paths
    log, shared = paths.host_log_file, {"shared_dir": paths.shared_dir}
    if service.role == "runner":
        log, shared["local_temp_dir"] = paths.runner_log_file, paths.local_temp_dir
    logs = _absolute(service, f"paths.{service.role}_log_file", log).parent if log else None
    used = (_absolute(service, f"paths.{key}", text) for key, text in shared.items() if text)
    return Folders(_state(service), logs, tuple(used))


def tls_files(service: Service) -> list[Path]:
    """Return the certificates and the key that a service reads.

    Raises:
        ConfigError: a path is relative.
    """
    network = service.config.network
    keys = {"tls_ca": network.tls_ca if network.tls_ca != tls.SYSTEM else ""}
    if service.role == "host":
        keys = {"tls_cert": network.tls_cert, "tls_key": network.tls_key}
    return [_absolute(service, f"network.{key}", text) for key, text in keys.items() if text]


def _state(service: Service) -> Path:
    paths, account = service.config.paths, service.account
    state = Path(account.home, ".local", "state", "hakuriver")
    if paths.state_dir:
        state = _absolute(service, "paths.state_dir", paths.state_dir)
    elif service.strict and service.role == "runner":
        raise ConfigError(
            f"{service.config_file}: the account that tasks run as cannot enter {account.home}: "
            f'write state_dir = "{STATE_DIRECTORY}" under [paths]'
        )
    if service.role == "runner":
        # The account that a root runner's tasks run as passes through the whole of it.
        return state if account.root else state / "runner"
    database = service.config.database.db_file
    return _absolute(service, "database.db_file", database).parent if database else state / "host"


def _absolute(service: Service, key: str, text: str) -> Path:
    # The home is the account's, which need not be that of whoever writes the unit.
    home = text == "~" or text.startswith("~/")
    path = service.account.home / text[2:] if home else expand(text)
    if not path.is_absolute():
        raise ConfigError(
            f"{service.config_file}: {key} = {text!r} is relative, and a service starts in /: "
            "give the whole path"
        )
    return Path(os.path.normpath(path))


def word(path: Path | str) -> str:
    """Return a path as one word of a setting: quoted, and with no specifier in it.

    Raises:
        ConfigError: no unit file can hold it.
    """
    text = checked(path)
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%") + '"'


def checked(path: Path | str) -> str:
    """Return a path's text.

    Raises:
        ConfigError: no unit file can hold it.
    """
    text = str(path)
    try:
        text.encode()
    except UnicodeEncodeError:
        fault = "bytes that are no UTF-8"
    else:
        if not _CONTROL.intersection(text):
            return text
        fault = "a control character"
    raise ConfigError(f"{text!r}: holds {fault}, which no unit file can: move it elsewhere")
