"""``hakuriver.runner``: run this machine's runner in the foreground."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from hakuriver.cli.shared.common import add_common_options, run
from hakuriver.cli.shared.entry import entry
from hakuriver.cli.shared.logfile import FORMS, add_log_format, logging_to
from hakuriver.cli.shared.settings import settings

if TYPE_CHECKING:
    from collections.abc import Sequence

_NAME = "hakuriver.runner"
_SYSFS = Path("/sys")
_JOINING_ONLY = ("shared_dir", "launcher", "run_as_user", "ca_fingerprint")
_TOGETHER = "--join, --name and --token go together (`hakuriver token` on the host's machine)"


@entry
def main(argv: Sequence[str] | None = None) -> int:
    """Run the runner until it is told to stop; return the exit code.

    With ``--join`` the machine becomes a node first; see `hakuriver.cli.setup.joining`.
    """
    parser = make_parser()
    arguments = parser.parse_args(argv)
    joining = {name: getattr(arguments, name) for name in ("join", "name", "token")}
    if any(value is not None for value in joining.values()):
        missing = [f"--{name}" for name, value in joining.items() if value is None]
        if missing:
            parser.error(f"{' and '.join(missing)} missing: {_TOGETHER}")
    elif only := [name for name in _JOINING_ONLY if getattr(arguments, name) is not None]:
        parser.error(f"--{only[0].replace('_', '-')} goes with --join")
    return run(_NAME, lambda: _serve(arguments) if arguments.join is None else _join(arguments))


def make_parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    parser = argparse.ArgumentParser(_NAME, description="Run this machine's runner.")
    add_common_options(parser)
    add_log_format(parser)
    parser.add_argument(
        "--default-workdir",
        type=Path,
        metavar="DIR",
        help="where tasks run that name no folder, when there is no shared directory "
        "(default: a folder of their own)",
    )
    # Another tree than /sys, for topologies that this machine does not have.
    parser.add_argument("--sysfs", type=Path, default=_SYSFS, help=argparse.SUPPRESS)
    group = parser.add_argument_group(
        "to make this machine a node", "the line that `hakuriver token --node NAME` prints"
    )
    group.add_argument("--join", metavar="URL", help="the host to join")
    group.add_argument("--name", metavar="NAME", help="the node's name")
    group.add_argument("--token", metavar="TOKEN", help="its token")
    group.add_argument(
        "--ca-fingerprint",
        metavar="sha256:…",
        help="of the authority by which a host that speaks TLS is known (default: one that this "
        "system trusts)",
    )
    group.add_argument(
        "--shared-dir", metavar="DIR", help="a folder at the same path on all machines, for logs"
    )
    group.add_argument(
        "--launcher",
        choices=("service", "scope", "process"),
        help="how tasks are started (default: as units of systemd where that can be had, else "
        "as plain processes)",
    )
    group.add_argument(
        "--run-as-user", metavar="USER", help="as whom tasks run, if this runner is root"
    )
    return parser


def _serve(arguments: argparse.Namespace) -> int:
    # Imported here: the runner needs Linux, its --help does not.
    from hakuriver.runner.main import serve  # noqa: PLC0415

    config = settings(_NAME, arguments.config)
    with logging_to(
        config.paths.runner_log_file, key="paths.runner_log_file", form=arguments.log_format
    ):
        asyncio.run(serve(config, default_workdir=arguments.default_workdir, sysfs=arguments.sysfs))
    return 0


def _join(arguments: argparse.Namespace) -> int:
    from hakuriver.cli.setup import joining  # noqa: PLC0415

    node = joining.Node(
        arguments.join,
        arguments.name,
        arguments.token,
        arguments.shared_dir,
        arguments.launcher or "auto",
        arguments.run_as_user,
        arguments.ca_fingerprint,
    )
    path = joining.join(node, arguments.config)
    options: list[str] = []
    if arguments.default_workdir is not None:
        options += ["--default-workdir", str(arguments.default_workdir)]
    if arguments.log_format != FORMS[0]:
        options += ["--log-format", arguments.log_format]
    if arguments.sysfs != _SYSFS:
        options += ["--sysfs", str(arguments.sysfs)]
    joining.become_runner(path, options)
