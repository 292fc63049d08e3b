"""``hakuriver token``: the one line that makes another machine a node, and new secrets."""

from __future__ import annotations

import argparse
import ipaddress
import os
import shlex
from typing import TYPE_CHECKING

from hakuriver import tls
from hakuriver.cli.setup import rotating
from hakuriver.cli.shared.common import add_common_options, run, tell
from hakuriver.cli.shared.settings import print_json, settings
from hakuriver.config import default_path, find_config
from hakuriver.errors import ConfigError
from hakuriver.model.auth import runner_token
from hakuriver.model.targets import check_node_name

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from hakuriver.config import Config

_NAME = "hakuriver token"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the line for one node, or replace secrets; return the exit code."""
    arguments = _parser().parse_args(argv)

    def command() -> int:
        path = find_config(arguments.config, os.environ) or default_path()
        if arguments.node is not None:
            _node(arguments, path)
        elif arguments.rotate is not None:
            _rotate(arguments, path)
        else:
            _rotate_runners(arguments, path)
        return 0

    return run(_NAME, command)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        _NAME,
        description="Print the line that makes a machine a node; run it on that machine. Or "
        "replace secrets of the host; restart it then: tasks go on, old tokens end.",
    )
    add_common_options(parser)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--node", metavar="NAME", help="what the node is called")
    which.add_argument(
        "--rotate",
        metavar="NAME",
        help="write a new client token of this name into the configuration and print it",
    )
    which.add_argument(
        "--rotate-runners",
        action="store_true",
        help="write a new runner secret into the configuration; all nodes must then join anew",
    )
    parser.add_argument("--json", action="store_true", help="print nothing but JSON on stdout")
    return parser


def _node(arguments: argparse.Namespace, path: Path) -> None:
    name = check_node_name(arguments.node)
    config = settings(_NAME, arguments.config)
    _check(config, str(path))
    token = runner_token(config.security.runner_secret, name)
    line = ["hakuriver.runner", "--join", config.host_url, "--name", name, "--token", token]
    known_by = _fingerprint(config)
    if known_by is not None:
        line += ["--ca-fingerprint", known_by]
    if arguments.json:
        print_json(
            {
                "node": name,
                "url": config.host_url,
                "token": token,
                "ca_fingerprint": known_by,
                "command": shlex.join(line),
            }
        )
    else:
        print(shlex.join(line))


def _rotate(arguments: argparse.Namespace, path: Path) -> None:
    settings(_NAME, arguments.config)
    token = rotating.rotate_token(path, arguments.rotate)
    if arguments.json:
        print_json({"name": arguments.rotate, "token": token})
    else:
        print(token)
    tell(
        _NAME,
        f"{path} holds the new token of {arguments.rotate}; restart the host, which ends the old "
        "one and every session with it (tasks go on)",
    )


def _rotate_runners(arguments: argparse.Namespace, path: Path) -> None:
    settings(_NAME, arguments.config)
    if (variable := rotating.overridden("runner_secret")) is not None:
        raise ConfigError(f"{variable} overrides the secret of the file: change it where it is set")
    rotating.rotate_runner_secret(path)
    if arguments.json:
        print_json({"rotated": "runners"})
    tell(
        _NAME,
        f"{path} holds a new runner secret; restart the host (tasks go on), then let each node "
        "join anew with the line of `hakuriver token --node NAME`",
    )


def _fingerprint(config: Config) -> str | None:
    """Return by which fingerprint nodes know the host; None for plain HTTP and public authorities.

    Raises:
        ConfigError: the host does not present its private authority's certificate.
    """
    network = config.network
    if not network.tls_cert or network.tls_ca == tls.SYSTEM:
        return None
    anchor = tls.anchor(network)
    if anchor is not None:
        return tls.fingerprint(anchor)
    if network.tls_ca:
        raise ConfigError(
            f"network.tls_cert: {network.tls_cert} does not hold its authority's certificate, by "
            f"which nodes know the host: append {network.tls_ca} to it"
        )
    return None


def _check(config: Config, path: str) -> None:
    """Refuse settings that no node could join; warn where only this machine could."""
    network = config.network
    if not config.security.runner_secret:
        raise ConfigError(
            f"{path}: there is no security.runner_secret, from which a node's token is made; "
            "`hakuriver.init` on the host's machine writes a file with one"
        )
    if not network.host_port:
        raise ConfigError(f"{path}: network.host_port is 0; give the port that the host listens on")
    for key in ("host_reachable_address", "host_bind_ip"):
        if _is_loopback(getattr(network, key)):
            tell(
                _NAME,
                f"only this machine itself can join: for others set network.{key} in {path}, "
                f"which is {getattr(network, key)}",
            )
            return


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"
