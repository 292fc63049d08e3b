"""Making this machine a node: check the host and the token, keep them in a file, then serve.

A host that speaks TLS is known by the fingerprint of its authority, whose certificate is kept as
well; without a fingerprint it must be of an authority that this system trusts.

The token is on the command line until then and in no process list after it.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
import tomllib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit

import msgspec

from hakuriver import tls
from hakuriver.cli.setup.rotating import replace_runner_token
from hakuriver.cli.setup.writing import write_new
from hakuriver.cli.shared.common import tell
from hakuriver.config import default_path, expand
from hakuriver.errors import ConfigError, HostUnreachable, InvalidRequest, NotFound, Unauthorized
from hakuriver.model.targets import check_node_name

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_NAME = "hakuriver.runner"
_PORTS = {"http": 80, "https": 443}
_ROOTS_STATE = "/var/lib/hakuriver"


@dataclass(frozen=True, slots=True)
class Node:
    """What the pasted line says."""

    url: str
    name: str
    token: str = field(repr=False)
    shared_dir: str | None = None
    launcher: str = "auto"
    run_as_user: str | None = None
    ca_fingerprint: str | None = None


class _Checked(msgspec.Struct, frozen=True):
    node: str
    cluster_id: str
    version: str


def join(node: Node, explicit: str | None) -> Path:
    """Check the host and the token and write the node's own configuration; return its path.

    The file is `explicit`, else ``~/.hakuriver/runner-NAME.toml``. It has mode 0600, appears
    whole or not at all. One that is there must say the same and is never changed but for the token,
    if the host takes the new one. The
    authority's certificate lies beside it, as ``runner-NAME-ca.pem``.

    Raises:
        InvalidRequest: that is no node name.
        ConfigError: the address or the folder cannot be used, or the file is there already and
            says otherwise.
        HostUnreachable: nobody answers there, or it is not the host that was meant.
        Unauthorized: the host does not take the token for this name.
    """
    check_node_name(node.name)
    launcher, caution = _launcher(node)
    node = replace(node, launcher=launcher)
    path = _path(node, explicit)
    authority = path.with_name(f"{path.stem}-ca.pem")
    wanted = _wanted(node, authority)
    certificate = _known_authority(node)
    asyncio.run(_check(node, certificate))
    if certificate is not None:
        _keep(authority, certificate)
    if not write_new(path, _toml(node, wanted)):
        _compare(path, wanted)
    # Of what came to nothing, the one line that says why is enough.
    if caution:
        tell(_NAME, caution)
    print(f"{path} makes this machine the node {node.name}; `{_NAME} -c {path}` starts it again")
    sys.stdout.flush()
    return path


def become_runner(path: Path, options: Sequence[str]) -> NoReturn:
    """Replace this process by a runner with the file `path`."""
    command = [sys.executable, "-m", "hakuriver", "runner", "-c", str(path), *options]
    os.execv(sys.executable, command)  # noqa: S606 - no shell is wanted


def _launcher(node: Node) -> tuple[str, str]:
    """Return how the node is to start tasks, and a caution or an empty string.

    They are units of systemd where that can be had.

    Raises:
        ConfigError: a root runner was not told as whom tasks are to run.
    """
    # Imported here: the runner's parts need Linux.
    from hakuriver.runner.launchers.systemd.manager import Manager, find_manager  # noqa: PLC0415

    if node.launcher != "auto":
        return node.launcher, ""
    found = find_manager(node.run_as_user or "")
    if isinstance(found, Manager):
        return node.launcher, ""
    caution = (
        "tasks will be plain processes of this user, held to their limits by a watchdog: "
        f"{'; '.join(each.reason for each in found)} (`hakuriver doctor` says how to mend it)"
    )
    return "process", caution


def _path(node: Node, explicit: str | None) -> Path:
    if explicit is None:
        return default_path().with_name(f"runner-{node.name}.toml")
    return expand(explicit).absolute()


def _wanted(node: Node, authority: Path) -> dict[str, dict[str, object]]:
    """Return the sections of the node's configuration."""
    scheme, address, port = _address(node.url)
    wanted: dict[str, dict[str, object]] = {
        "network": {"host_reachable_address": address, "host_port": port},
        "runner": {"name": node.name, "launcher": node.launcher},
        "security": {"runner_token": node.token},
    }
    if scheme == "https":
        wanted["network"]["tls_ca"] = tls.SYSTEM if node.ca_fingerprint is None else str(authority)
    elif node.ca_fingerprint is not None:
        raise InvalidRequest("--ca-fingerprint", "goes with https:// after --join")
    paths: dict[str, object] = {}
    if node.run_as_user is not None:
        wanted["runner"]["run_as_user"] = node.run_as_user
    if node.launcher != "process" and os.geteuid() == 0:
        # Tasks of another user must get through to their logs, and root's home is root's.
        paths["state_dir"] = _ROOTS_STATE
    if node.shared_dir is not None:
        folder = expand(node.shared_dir).absolute()
        if not folder.is_dir():
            raise ConfigError(f"--shared-dir: there is no directory {folder}")
        paths["shared_dir"] = str(folder)
    if paths:
        wanted["paths"] = paths
    return wanted


def _address(url: str) -> tuple[str, str, int]:
    try:
        parts = urlsplit(url)
        address, port = parts.hostname, parts.port or _PORTS.get(parts.scheme, 0)
    except ValueError:
        parts, address, port = urlsplit(""), None, 0
    known = parts.scheme in _PORTS and address and parts.path in ("", "/")
    if not known or not address or "@" in url:
        why = "takes no name or password" if "@" in url else f"{url!r} is no address"
        raise InvalidRequest("--join", f"{why}: write http://HOST:PORT or https://HOST:PORT")
    return parts.scheme, address, port


def _known_authority(node: Node) -> str | None:
    """Return the certificate by which the host is known, None if it is not known by one."""
    if node.ca_fingerprint is None:
        return None
    # Imported here: usage errors need no HTTP.
    from hakuriver.cli.setup import fingerprints  # noqa: PLC0415

    _, address, port = _address(node.url)
    return fingerprints.authority_of(address, port, fingerprints.checked(node.ca_fingerprint))


def _keep(path: Path, certificate: str) -> None:
    """Write the authority's certificate; one that is there must be the same."""
    if write_new(path, certificate):
        return
    try:
        same = certificate in tls.certificates(path.read_text("ascii", "replace"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    if not same:
        raise ConfigError(
            f"{path} is there already and is of another authority: remove it to join anew"
        )


async def _check(node: Node, authority: str | None) -> None:
    """Ask the host whether the token is good for the name.

    It gets the token only after it has shown that it is the one that `authority` speaks for.
    """
    # Imported here: usage errors need no HTTP.
    from hakuriver.client.transport import Transport, Untrusted  # noqa: PLC0415

    trust = None if authority is None else tls.trusting_only(authority)
    transport = Transport(node.url, node.token, trust=trust)
    try:
        await transport.request("GET", "/api/runner/check", _Checked, params={"name": node.name})
    except Unauthorized:
        raise Unauthorized(
            f"the host at {transport.url} does not accept this token for the node {node.name}: "
            f"make a new line there with `hakuriver token --node {node.name}`, and restart the "
            "host if its runner secret was replaced since it started"
        ) from None
    except NotFound:
        raise ConfigError(
            f"at {transport.url} is no host that nodes of this version can join"
        ) from None
    except Untrusted as error:
        more = "" if authority else "; the line of `hakuriver token` names it by --ca-fingerprint"
        raise Untrusted(f"{error}{more}") from None
    except HostUnreachable:
        raise HostUnreachable(
            f"no host answers at {transport.url}: is it running, and does it listen on an address "
            "that this machine can reach (network.host_bind_ip on its machine)?"
        ) from None
    finally:
        await transport.close()


def _toml(node: Node, sections: dict[str, dict[str, object]]) -> str:
    lines = [f"# The node {node.name}: written when it joined {node.url}."]
    for section, keys in sections.items():
        lines += ["", f"[{section}]"]
        # JSON's strings and numbers are TOML's.
        lines += [f"{key} = {msgspec.json.encode(value).decode()}" for key, value in keys.items()]
    return "\n".join(lines) + "\n"


def _compare(path: Path, wanted: dict[str, dict[str, object]]) -> None:
    """Raise `ConfigError` unless the file there says what is wanted; it may say more.

    Of another token it takes the new one.
    """
    try:
        there: dict[str, Any] = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        raise ConfigError(
            f"{path} is there already and is no configuration: move it away"
        ) from None
    different = [
        f"{section}.{key}"
        for section, keys in wanted.items()
        for key, value in keys.items()
        if not _same(there.get(section, {}).get(key), value)
    ]
    if different == ["security.runner_token"]:
        # The host was asked and takes the new one: its runner secret was replaced.
        replace_runner_token(path, str(wanted["security"]["runner_token"]))
        tell(_NAME, f"{path} holds the node's new token")
        return
    if different:
        raise ConfigError(
            f"{path} is there already and differs in {', '.join(different)}: remove it to join "
            f"anew, or start the node as it was with `{_NAME} -c {path}`"
        )


def _same(there: object, wanted: object) -> bool:
    if isinstance(there, str) and isinstance(wanted, str):
        return secrets.compare_digest(there.encode(), wanted.encode())
    return there == wanted
