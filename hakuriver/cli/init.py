"""``hakuriver.init``: write the configuration file, with fresh secrets.

With ``--tls`` it makes an authority of the cluster's own first: `hakuriver.cli.setup.authority`.

``hakuriver.init service`` is `hakuriver.cli.services.command`.
"""

from __future__ import annotations

import argparse
import secrets
import sys
from typing import TYPE_CHECKING

import msgspec

from hakuriver.cli.setup.authority import TlsFiles, issue, names_of_host
from hakuriver.cli.setup.writing import write_new
from hakuriver.cli.shared.common import add_common_options, run
from hakuriver.cli.shared.entry import entry
from hakuriver.config import Config, default_path, expand, load_config

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_NAME = "hakuriver.init"

_TEMPLATE = """\
# HakuRiver: one file for all roles. Keys in comments show their defaults.

[network]
host_bind_ip = "127.0.0.1"            # where the host listens; 0.0.0.0 for other machines
host_port = 8000
host_reachable_address = "127.0.0.1"  # where clients and runners find the host
{tls}
# runner_address = ""                 # of no use: nothing listens on a runner
# runner_port = 0                     # of no use

[paths]
# shared_dir = ""                     # a folder at the same path on all machines, for logs
# local_temp_dir = ""                 # fast local disk, given to tasks
# state_dir = ""                      # default: hakuriver in the user's state folder
# numactl_path = ""                   # default: numactl from PATH, else none is needed
# host_log_file = ""                  # the log goes here as well as to stderr
# runner_log_file = ""

[database]
# db_file = ""                        # default: host/hakuriver.db in the state folder

[timing]
# heartbeat_interval = 5              # seconds
# heartbeat_timeout_factor = 6        # silent for interval x factor: tasks are lost
# cleanup_check_interval = 10         # seconds between looks for silent nodes
# kill_grace = 5                      # seconds from SIGTERM to SIGKILL

[runner]
# name = ""                           # default: the machine's host name
# launcher = "auto"                   # service: as units of systemd; or scope, or process
# run_as_user = ""                    # as whom tasks run, if the runner is root
# cpus = ""                           # such as "0-7"; default: all
# memory = ""                         # such as "64G"; default: all
# python = ""                         # the Python that runs cells; default: the runner's own
# tasks_max = 4096                    # processes and threads of one task, as a unit of systemd
# max_log_bytes = "2G"                # a task that writes more to a log is ended; default: no cap

[retention]
# keep_tasks_days = 90                # ended tasks; 0 keeps them for ever
# keep_logs_days = 30                 # and their logs

[security]
# auth = "token"                      # "none" is allowed on loopback only
runner_secret = "{runner_secret}"
# runner_token = ""                   # on a node that holds its own token, not the secret
# cluster_id = ""                     # written when the secret is replaced, keeps the cluster's

[security.tokens]
default = "{token}"
"""


_NO_TLS = """\
# tls_cert = ""                       # for TLS: the host's certificate, then its authority's
# tls_key = ""                        # and the key to it
# tls_ca = ""                         # whom clients and runners trust: a file, or "system"\
"""


@entry
def main(argv: Sequence[str] | None = None) -> int:
    """Write the file unless there is one; print its path; return the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["service"]:
        # Imported here: it is seldom wanted.
        from hakuriver.cli.services.command import main as service  # noqa: PLC0415

        return service(words[1:])
    parser = argparse.ArgumentParser(
        _NAME,
        description="Write the configuration file, with fresh secrets.",
        epilog="`hakuriver.init service --help` tells how to have units for systemd written.",
    )
    add_common_options(parser)
    parser.add_argument(
        "--tls",
        action="store_true",
        help="make an authority and a certificate for the host beside it; again: renew the latter",
    )
    parser.add_argument(
        "--host-name",
        action="append",
        default=[],
        metavar="NAME",
        help="a name or address that the certificate is for as well (repeatable; with --tls)",
    )
    arguments = parser.parse_args(words)
    if arguments.host_name and not arguments.tls:
        parser.error("--host-name goes with --tls")

    def command() -> int:
        path = expand(arguments.config) if arguments.config else default_path()
        if arguments.tls:
            _with_tls(path.absolute(), arguments.host_name)
        else:
            _say(path, written=write_config(path))
        return 0

    return run(_NAME, command)


def _say(path: Path, *, written: bool) -> None:
    print(f"{path}" if written else f"{path} exists already; it is unchanged")


def _with_tls(path: Path, more: Sequence[str]) -> None:
    """Make or renew the host's certificate, then write the file unless there is one."""
    files = TlsFiles(path.parent)
    there = path.is_file()
    network = (load_config(str(path)) if there else Config()).network
    names = names_of_host(network.host_reachable_address, more)
    made = issue(files, names)
    _say(path, written=not there and write_config(path, tls=files.settings))
    verb = "renewed, restart the host" if made.renewed else "made"
    print(f"{files.cert} {verb}: until {made.not_after:%Y-%m-%d}, for {', '.join(made.names)}")
    if there and expand(network.tls_cert).absolute() != files.cert:
        print("To use it, write under [network]:")
        print(_keys(files.settings))


def write_config(path: Path, *, tls: Mapping[str, str] | None = None) -> bool:
    """Write a file with fresh secrets; False if there is one. See `write_new`.

    `tls` are the keys of ``[network]`` for it.
    """
    text = _TEMPLATE.format(
        runner_secret=secrets.token_hex(32),
        token=secrets.token_urlsafe(32),
        tls=_keys(tls) if tls else _NO_TLS,
    )
    return write_new(path, text)


def _keys(keys: Mapping[str, str]) -> str:
    # JSON's strings are TOML's.
    return "\n".join(f"{key} = {msgspec.json.encode(text).decode()}" for key, text in keys.items())
