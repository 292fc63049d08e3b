"""``hakuriver.init service``: write a unit for systemd, and say how it is installed.

Nothing is installed and nothing started: that takes root, and the admin reads the file first.
"""

from __future__ import annotations

import argparse
import os
import pwd
import re
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from hakuriver.cli.services.parts import Account, Service, checked
from hakuriver.cli.services.steps import cautions, steps, user_units
from hakuriver.cli.services.units import unit
from hakuriver.cli.shared.common import add_common_options, run, tell
from hakuriver.config import default_path, expand, load_config
from hakuriver.errors import ConfigError, InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hakuriver.cli.services.parts import Role

_NAME = "hakuriver.init service"


def main(argv: Sequence[str] | None = None) -> int:
    """Write the unit of a host or a runner; return the exit code."""
    parser = make_parser()
    arguments = parser.parse_args(argv)
    if arguments.user and arguments.account is not None:
        parser.error("--account goes with units of the system's manager, not with --user")
    return run(_NAME, lambda: _write(arguments))


def make_parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    parser = argparse.ArgumentParser(
        _NAME, description="Write a systemd unit that keeps a host or a runner running."
    )
    add_common_options(parser)
    roles = parser.add_mutually_exclusive_group(required=True)
    for role in ("host", "runner"):
        roles.add_argument(
            f"--{role}", dest="role", action="store_const", const=role, help=f"for the {role}"
        )
    parser.add_argument(
        "--user", action="store_true", help="for your own manager of units, without root"
    )
    parser.add_argument(
        "--account",
        metavar="NAME",
        help="the account that it runs as (default: yours; with sudo, for a host, the caller's)",
    )
    parser.add_argument(
        "--output-dir",
        metavar="DIR",
        help="where the file goes (default: here; with --user, where systemd looks for it)",
    )
    return parser


def _write(arguments: argparse.Namespace) -> int:
    role: Role = arguments.role
    account = _account(role, arguments.account, user=arguments.user)
    path = _config_file(role, account, arguments.config)
    service = Service(
        role=role,
        account=account,
        system=not arguments.user,
        python=os.path.abspath(sys.executable),  # noqa: PTH100 - a venv's link must stay one
        config_file=path,
        # A service has nothing of this environment.
        config=load_config(str(path), {}),
    )
    text = unit(service)
    folder = Path.cwd() if service.system else user_units(account)
    if arguments.output_dir is not None:
        folder = Path(os.path.abspath(expand(arguments.output_dir)))  # noqa: PTH100
    file = folder / service.unit_name
    checked(file)
    written = _write_new(file, text)
    print(file if written else f"{file}: unchanged")
    for line in steps(service, file, sudo=os.geteuid() != 0 or "SUDO_USER" in os.environ):
        print(line)
    for caution in cautions(service, os.environ):
        tell(_NAME, caution)
    return 0


def _account(role: Role, named: str | None, *, user: bool) -> Account:
    """Return as whom the service runs."""
    root = os.geteuid() == 0
    if user and root:
        raise InvalidRequest(
            "--user", "is for an ordinary account's own manager: leave it away as root"
        )
    if named is None and root and role == "host":
        named = os.environ.get("SUDO_USER")
    try:
        entry = pwd.getpwuid(os.geteuid()) if named is None else pwd.getpwnam(named)
    except KeyError:
        raise InvalidRequest("--account", f"there is no account {named or os.geteuid()}") from None
    if role == "host" and entry.pw_uid == 0:
        raise InvalidRequest(
            "--account", "a host needs no root: name the account that it runs as, --account NAME"
        )
    # systemd and sudo both take a number for a name that would have to be quoted.
    plain = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]*", entry.pw_name)
    name = entry.pw_name if plain else str(entry.pw_uid)
    return Account(name, entry.pw_uid, entry.pw_gid, Path(entry.pw_dir))


def _config_file(role: Role, account: Account, explicit: str | None) -> Path:
    """Return the absolute path of the file that the service reads."""
    named = explicit or os.environ.get("HAKURIVER_CONFIG")
    path = account.home / ".hakuriver" / "config.toml"
    if named or account.uid == os.geteuid():
        path = expand(named) if named else default_path()
    path = Path(os.path.abspath(path))  # noqa: PTH100 - links stay links
    try:
        if path.is_file():
            return path
        joined = sorted(path.parent.glob("runner-*.toml")) if role == "runner" else []
    except OSError as error:
        raise ConfigError(f"{path}: cannot be looked at ({error.strerror})") from None
    if joined:
        raise ConfigError(f"there is no file {path}: name the node's own with -c {joined[0]}")
    maker = "`hakuriver.init` makes one"
    if role == "runner":
        maker = "the line that `hakuriver token --node NAME` prints on the host's machine makes one"
    raise ConfigError(f"there is no file {path}: {maker}; name another with -c")


def _write_new(path: Path, text: str) -> bool:
    """Write a file that appears whole; False if it is there and says the same.

    Raises:
        ConfigError: it is there and says otherwise, or it cannot be written.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(text, "utf-8")
        draft.chmod(0o644)
        try:
            # A link fails where a file exists; a rename would replace it.
            os.link(draft, path)
        except FileExistsError:
            if path.read_bytes() == text.encode():
                return False
        else:
            return True
        finally:
            draft.unlink()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror})") from None
    raise ConfigError(f"{path} is there already and says otherwise: move it away first")
