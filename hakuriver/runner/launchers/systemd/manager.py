"""The way to systemd's managers: which one, in whose name, and calling its programs.

Three ways, tried in this order: as root; as an ordinary user whom sudo lets run ``systemd-run``
and ``systemctl`` without a password; through the user's own manager. Tasks of a root runner run
as ``runner.run_as_user``, those of the others as the runner's own user.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from hakuriver.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

#: systemd has booted the machine (sd_booted(3)).
_BOOTED = Path("/run/systemd/system")
_LINGER = Path("/var/lib/systemd/linger")
_PATIENCE = 90.0
_ROOT = 0


class Mode(StrEnum):
    """In whose name units are made."""

    ROOT = "root"
    SUDO = "sudo"
    USER = "user"


@dataclass(frozen=True, slots=True)
class Account:
    """The user as whom tasks run."""

    name: str
    uid: int
    gid: int
    home: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call ended, and what it said."""

    code: int
    stdout: str
    stderr: str

    @property
    def words(self) -> str:
        """What it complained of, in one line."""
        return " ".join(self.stderr.split()) or f"exit code {self.code}"


@dataclass(frozen=True, slots=True)
class Manager:
    """One of systemd's managers; `version` is systemd's, `account` the user of the tasks."""

    mode: Mode
    version: int
    account: Account

    @property
    def run(self) -> tuple[str, ...]:
        """The words that make a transient unit."""
        return {
            Mode.ROOT: ("systemd-run",),
            Mode.SUDO: ("sudo", "-n", "systemd-run"),
            Mode.USER: ("systemd-run", "--user"),
        }[self.mode]

    @property
    def control(self) -> tuple[str, ...]:
        """The words that change units."""
        return {
            Mode.ROOT: ("systemctl",),
            Mode.SUDO: ("sudo", "-n", "systemctl"),
            Mode.USER: ("systemctl", "--user"),
        }[self.mode]

    @property
    def query(self) -> tuple[str, ...]:
        """The words that ask about units, for which nobody needs rights."""
        return ("systemctl", "--user") if self.mode is Mode.USER else ("systemctl",)


def call(*words: str) -> Outcome:
    """Run a program of systemd's and return how it ended. Blocks.

    One that cannot be run, or does not end in time, counts as failed.
    """
    try:
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=_environment(),
            cwd="/",
            timeout=_PATIENCE,
            check=False,
        )
    except OSError as error:
        return Outcome(127, "", f"{words[0]}: {error.strerror}")
    except subprocess.TimeoutExpired:
        return Outcome(124, "", f"{words[0]} did not end within {_PATIENCE:.0f} s")
    return Outcome(
        done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
    )


def _environment() -> Mapping[str, str]:
    """Return the environment of systemd's programs: nothing of the runner's own goes along."""
    kept = ("PATH", "HOME", "USER", "LOGNAME", "LANG")
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    runtime = os.environ.get("XDG_RUNTIME_DIR", f"/run/user/{os.getuid()}")
    return {
        "PATH": os.defpath,
        **environment,
        "XDG_RUNTIME_DIR": runtime,
        "DBUS_SESSION_BUS_ADDRESS": f"unix:path={runtime}/bus",
        "SYSTEMD_PAGER": "",
        "SYSTEMD_COLORS": "0",
    }


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why a way is closed, and the command or setting that opens it."""

    reason: str
    mend: str


def systemd_version() -> int:
    """Return the version of systemd that has booted this machine, 0 if another init did."""
    if not _BOOTED.is_dir() or shutil.which("systemd-run") is None:
        return 0
    found = re.match(r"systemd (\d+)", call("systemctl", "--version").stdout)
    return int(found[1]) if found else 0


def sudo_rule(user: str) -> str:
    """Return the line of sudoers that lets an ordinary user's runner make units."""
    return f"{user} ALL=(ALL) NOPASSWD: /usr/bin/systemd-run, /usr/bin/systemctl"


def find_manager(run_as_user: str, *, prefer: Mode | None = None) -> Manager | list[Obstacle]:
    """Return the best way to systemd that is open here, else what stands in each way.

    An ordinary user's way is `prefer`, if that is open.

    Raises:
        ConfigError: ``runner.run_as_user`` cannot be used.
    """
    version = systemd_version()
    if not version:
        return [
            Obstacle(
                "systemd does not run this machine",
                'write launcher = "process" under [runner], or set '
                "HAKURIVER_RUNNER_LAUNCHER=process",
            )
        ]
    account = task_account(run_as_user)
    if os.geteuid() == _ROOT:
        return Manager(Mode.ROOT, version, account)
    obstacles: list[Obstacle] = []
    looks = {Mode.SUDO: _sudo_obstacle, Mode.USER: _user_obstacle}
    for mode in sorted(looks, key=lambda mode: mode is not prefer):
        obstacle = looks[mode](account)
        if obstacle is None:
            return Manager(mode, version, account)
        obstacles.append(obstacle)
    return obstacles


def task_account(run_as_user: str) -> Account:
    """Return the user as whom tasks run.

    Raises:
        ConfigError: a root runner has none, or it is root or nobody known; another user's runner
            was given one that is not its own.
    """
    own = pwd.getpwuid(os.geteuid())
    if own.pw_uid != _ROOT:
        if run_as_user not in ("", own.pw_name):
            raise ConfigError(
                f"runner.run_as_user = {run_as_user!r}: a runner that is not root starts tasks as "
                f"its own user, {own.pw_name}: leave the key empty, or run it as root"
            )
        return Account(own.pw_name, own.pw_uid, own.pw_gid, own.pw_dir)
    if not run_as_user:
        raise ConfigError(
            "runner.run_as_user: this runner is root; name the unprivileged user as whom tasks "
            "are to run (make one with `useradd --create-home tasks`)"
        )
    try:
        user = pwd.getpwnam(run_as_user)
    except KeyError:
        raise ConfigError(
            f"runner.run_as_user = {run_as_user!r}: there is no such user on this machine"
        ) from None
    if user.pw_uid == _ROOT:
        raise ConfigError("runner.run_as_user: tasks never run as root; name another user")
    return Account(user.pw_name, user.pw_uid, user.pw_gid, user.pw_dir)


def _sudo_obstacle(account: Account) -> Obstacle | None:
    user = account.name
    for program in ("systemd-run", "systemctl"):
        tried = call("sudo", "-n", program, "--version")
        if tried.code != 0:
            return Obstacle(
                f"sudo does not let {user} run {program} without a password ({tried.words})",
                f"echo '{sudo_rule(user)}' | sudo tee /etc/sudoers.d/hakuriver",
            )
    return None


def _user_obstacle(account: Account) -> Obstacle | None:
    if not (_LINGER / account.name).exists():
        return Obstacle(
            f"the units of {account.name} would end when {account.name} logs out",
            f"sudo loginctl enable-linger {account.name}",
        )
    tried = call("systemctl", "--user", "is-system-running")
    if tried.stdout.strip() not in ("running", "degraded", "starting"):
        return Obstacle(
            f"the manager of {account.name}'s own units does not answer ({tried.words})",
            "sudo apt-get install dbus-user-session libpam-systemd",
        )
    return None
