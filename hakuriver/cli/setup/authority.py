"""A cluster's own authority on disk: what `hakuriver.init --tls` keeps beside the configuration.

Four files: ``tls-ca.pem`` and ``tls-ca.key`` are the authority, ``tls-host.pem`` and
``tls-host.key`` the host's certificate (with the authority's after it) and its key. All have mode
0600. The authority and the keys are made once; the host's certificate is made anew each time.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hakuriver.cli.setup.writing import write_new
from hakuriver.disk import write_private
from hakuriver.errors import ConfigError, InvalidRequest

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterable
    from pathlib import Path
    from types import ModuleType

    from hakuriver.cli.setup.certificates import Pair

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_EVERYWHERE = ("0.0.0.0", "::", "")  # noqa: S104 - nothing is bound, they are no names


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Where they lie."""

    folder: Path

    @property
    def ca(self) -> Path:
        """The authority's certificate: what clients and runners trust."""
        return self.folder / "tls-ca.pem"

    @property
    def ca_key(self) -> Path:
        """The authority's key."""
        return self.folder / "tls-ca.key"

    @property
    def cert(self) -> Path:
        """The host's certificate and the authority's."""
        return self.folder / "tls-host.pem"

    @property
    def key(self) -> Path:
        """The host's key."""
        return self.folder / "tls-host.key"

    @property
    def settings(self) -> dict[str, str]:
        """The keys of ``[network]`` that use them."""
        return {"tls_cert": str(self.cert), "tls_key": str(self.key), "tls_ca": str(self.ca)}


@dataclass(frozen=True, slots=True)
class Issued:
    """What was made: for whom, until when, and whether an earlier certificate was replaced."""

    names: tuple[str, ...]
    not_after: dt.datetime
    renewed: bool


def names_of_host(reachable: str, more: Iterable[str]) -> tuple[str, ...]:
    """Return the names and addresses by which a host is asked for."""
    every = (*more, reachable, socket.gethostname(), *_LOOPBACK)
    return tuple(dict.fromkeys(name for name in every if name not in _EVERYWHERE))


def issue(files: TlsFiles, names: tuple[str, ...]) -> Issued:
    """Make the host's certificate for `names`, and before it what is missing.

    Raises:
        ConfigError: files cannot be read or written, or do not belong together.
        InvalidRequest: the package that makes certificates is missing, or that is no name.
    """
    made = _library()
    authority = _authority(files, made)
    key = _read(files.key) if files.key.exists() else None
    try:
        host: Pair = made.make_host(authority, names, key=key)
    except ConfigError as error:
        raise ConfigError(
            f"{files.ca}: {error}: move {files.folder}/tls-* away for new ones; nodes must then "
            "join anew"
        ) from None
    if key is None:
        _new(files.key, host.key)
    renewed = files.cert.exists()
    if renewed:
        try:
            write_private(files.cert, host.certificate.encode())
        except OSError as error:
            raise ConfigError(f"{files.cert}: cannot be written ({error.strerror})") from None
    else:
        _new(files.cert, host.certificate)
    return Issued(names, host.not_after, renewed)


def _library() -> ModuleType:
    try:
        # Imported here: it is an extra.
        from hakuriver.cli.setup import certificates  # noqa: PLC0415
    except ImportError:
        raise InvalidRequest(
            "--tls",
            "certificates are made with the package cryptography: "
            "pip install 'hakuriver-jupyter[tls]'",
        ) from None
    return certificates


def _authority(files: TlsFiles, made: ModuleType) -> Pair:
    there = [path for path in (files.ca, files.ca_key) if path.exists()]
    if not there:
        fresh: Pair = made.make_authority()
        # The key first: a certificate without its key would be of no use.
        _new(files.ca_key, fresh.key)
        _new(files.ca, fresh.certificate)
        return fresh
    if len(there) == 1:
        missing = files.ca if there[0] == files.ca_key else files.ca_key
        raise ConfigError(
            f"{there[0]} is there without {missing.name}: put that back beside it, or move all of "
            f"{files.folder}/tls-* away for a new authority; nodes must then join anew"
        )
    kept: Pair = made.Pair(_read(files.ca), _read(files.ca_key))
    return kept


def _read(path: Path) -> str:
    try:
        return path.read_text("ascii", "replace")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None


def _new(path: Path, text: str) -> None:
    if not write_new(path, text):
        raise ConfigError(f"{path} is there already: another hakuriver.init is at work")
