"""Where the host is, and the token for it: from arguments, environment, file or embedded cluster.

The first of these that names a host holds:

1. what the caller gives (``url``, ``token``, or a ``config``),
2. ``HAKURIVER_URL`` and ``HAKURIVER_TOKEN``,
3. the configuration file (``$HAKURIVER_CONFIG``, else ``~/.hakuriver/config.toml``), or without
   one the variables ``HAKURIVER_NETWORK_…`` alone,
4. the running embedded cluster of this user.

A token from a file goes only to the host that the same file names. Where the host speaks TLS,
``network.tls_ca`` of the file or the environment says whom to trust, whatever names the host.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from getpass import getuser
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING

import msgspec

from hakuriver import tls
from hakuriver.config import Config, find_config, load_config
from hakuriver.errors import HostUnreachable

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

_CA = "HAKURIVER_NETWORK_TLS_CA"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A host's address with the token for it; `embedded` tells that it runs on this machine.

    `tls_ca` is that of the configuration, see `hakuriver.tls.trusting`.
    """

    url: str
    token: str = field(repr=False)
    embedded: bool = False
    tls_ca: str = ""

    def trust(self) -> ssl.SSLContext | None:
        """Return with what the host is asked, None for plain HTTP; may raise `ConfigError`."""
        return tls.trusting(self.tls_ca) if self.url.startswith("https:") else None


class _RuntimeFacts(msgspec.Struct, frozen=True):
    url: str
    token: str


def embedded_file() -> Path:
    """Return where the embedded cluster keeps its address and token, for its user alone."""
    folder = os.environ.get("XDG_RUNTIME_DIR", "")
    if folder and Path(folder).is_dir():
        return Path(folder) / "hakuriver" / "embedded.json"
    # Without a session there is no such folder. Its reader checks whose the file is.
    user = os.getuid() if hasattr(os, "getuid") else getuser()
    return Path(gettempdir()) / f"hakuriver-{user}" / "embedded.json"


def embedded_endpoint() -> tuple[str, str] | None:
    """Return URL and token of the embedded cluster, None if its file is absent or not to trust."""
    try:
        descriptor = os.open(embedded_file(), os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        # The runtime folder may lie in a world-writable one, where others could plant a file.
        if not _ours(os.fstat(descriptor)):
            return None
        try:
            facts = msgspec.json.decode(file.read(), type=_RuntimeFacts)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
    return facts.url.rstrip("/"), facts.token


def resolve(
    url: str | None = None,
    *,
    token: str | None = None,
    config: Config | str | os.PathLike[str] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Endpoint:
    """Return the host to talk to.

    Raises:
        ConfigError: a configuration file cannot be used.
        HostUnreachable: nothing says where a host is.
    """
    environ = os.environ if environ is None else environ
    if config is None:
        url = url or environ.get("HAKURIVER_URL") or None
        token = token if token is not None else environ.get("HAKURIVER_TOKEN") or None
    settings = None
    if url is None or token is None or url.startswith("https:"):
        settings = _settings(config, environ)
    found = None if settings is None else _named(settings)
    embedded = embedded_endpoint()
    if url is None:
        chosen = found or embedded
        if chosen is None:
            raise HostUnreachable(
                "nothing says where the host is: start one with `hakuriver up`, set "
                "HAKURIVER_URL and HAKURIVER_TOKEN, or write a file with `hakuriver.init`"
            )
        url = chosen[0]
    url = url.rstrip("/")
    known = [each for each in (found, embedded) if each is not None and each[0] == url]
    own = next((its for _, its in known if its), "")
    local = embedded is not None and embedded[0] == url
    ca = settings.network.tls_ca if settings else environ.get(_CA, "")
    return Endpoint(url, own if token is None else token, embedded=local, tls_ca=ca)


def _settings(
    config: Config | str | os.PathLike[str] | None, environ: Mapping[str, str]
) -> Config | None:
    """Return the configuration, None if nothing configures a client."""
    if not isinstance(config, Config):
        explicit = None if config is None else os.fspath(config)
        # Whom to trust says nothing about where the host is.
        laid = any(name.startswith("HAKURIVER_NETWORK_") and name != _CA for name in environ)
        if find_config(explicit, environ) is None and not laid:
            return None
        config = load_config(explicit, environ)
    return config


def _named(config: Config) -> tuple[str, str]:
    """Return URL and token from the configuration."""
    tokens = config.security.tokens
    token = tokens.get("default") or next(iter(tokens.values()), "")
    return config.host_url, token


def _ours(status: os.stat_result) -> bool:
    """Tell whether a file belongs to this user and nobody else may write it."""
    if not hasattr(os, "getuid"):
        return True
    others = stat.S_IWGRP | stat.S_IWOTH
    return status.st_uid == os.getuid() and not status.st_mode & others
