"""What is left to do when a unit is written: install it, give rights, heed what would be amiss."""

from __future__ import annotations

import os
import shlex
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from hakuriver.cli.services.parts import tls_files

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hakuriver.cli.services.parts import Account, Service

_SYSTEM_UNITS = Path("/etc/systemd/system")
_RULE = "/etc/sudoers.d/hakuriver"
# What the unit itself says.
_NOT_MISSED = ("HAKURIVER_CONFIG",)


def user_units(account: Account) -> Path:
    """Return where an account's own manager looks for units."""
    return account.home / ".config" / "systemd" / "user"


def steps(service: Service, file: Path, *, sudo: bool) -> list[str]:
    """Return what is to be done with the file, as lines for a shell and words about them."""
    name, account = service.unit_name, service.account
    root = "sudo " if sudo else ""
    control, folder = f"{root}systemctl", _SYSTEM_UNITS
    if not service.system:
        root, control, folder = "", "systemctl --user", user_units(account)
    copy = [] if file.parent == folder else [f"{root}cp {shlex.quote(str(file))} {folder}/"]
    if copy and not service.system:
        copy.insert(0, f"mkdir -p {folder}")
    start = [f"{control} daemon-reload", f"{control} enable --now {name}"]
    lines = ["Install and start it:", "  " + " && ".join((*copy, *start))]
    if not service.system:
        lines += [
            "Let it run from boot on, and when you are logged out:",
            f"  sudo loginctl enable-linger {account.name}",
        ]
    if service.role == "runner" and not account.root:
        lines += _sudo_steps(service, "" if service.system and not sudo else "sudo ")
    return lines


def _sudo_steps(service: Service, sudo: str) -> list[str]:
    """Return how the runner gets the rule by which it starts tasks, if it needs one."""
    if service.config.runner.launcher == "process":
        return []
    name = service.account.name
    user = f"#{name}" if name.isdigit() else name
    rule = f"{user} ALL=(ALL) NOPASSWD: /usr/bin/systemd-run, /usr/bin/systemctl"
    return [
        f"Let it start tasks with sudo (the rule makes {name} as powerful as root):",
        f"  echo '{rule}' | {sudo}tee {_RULE}",
        f"  {sudo}visudo -cf {_RULE}",
    ]


def cautions(service: Service, environ: Mapping[str, str]) -> list[str]:
    """Return what would be different for the service than here, or closed to it."""
    account = service.account
    told: list[str] = []
    ours = sorted(
        name
        for name in environ
        if name == "XDG_STATE_HOME" or (name.startswith("HAKURIVER_") and name not in _NOT_MISSED)
    )
    if ours:
        told.append(
            f"{', '.join(ours)}: set here but not for the service, which reads nothing but "
            f"{service.config_file}"
        )
    for path in (service.config_file, Path(service.python).resolve(), *tls_files(service)):
        # One that is not there yet, the service itself tells.
        barrier = None if account.root or not path.exists() else _barrier(path, account)
        if barrier is not None:
            told.append(f"{account.name} cannot read {path}: see owner and mode of {barrier}")
    return told


def _barrier(path: Path, account: Account) -> Path | None:
    """Return what keeps an account from reading a file: itself or a folder above it."""
    groups = os.getgrouplist(account.name, account.gid)
    for step in (*reversed(path.parents), path):
        status = step.stat()
        mode = status.st_mode
        if status.st_uid == account.uid:
            mode >>= 6
        elif status.st_gid in groups:
            mode >>= 3
        if not mode & (stat.S_IROTH if step == path else stat.S_IXOTH):
            return step
    return None
