"""Who may ask: client tokens, and a guard against pages of other sites.

A page that a browser loaded from elsewhere can make it send requests here. Such a request bears
that page's host name (DNS rebinding), or a form's content type; both are refused.
"""

from __future__ import annotations

import hmac
import ipaddress
import socket
from typing import TYPE_CHECKING

from hakuriver.errors import ConfigError, InvalidRequest, Unauthorized

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tornado.httputil import HTTPHeaders

    from hakuriver.config import Config


def bearer(headers: HTTPHeaders) -> str:
    """Return the token of an ``Authorization: Bearer`` header, empty if there is none."""
    scheme, _, token = headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


class Gate:
    """Tells whose request it is, or refuses it."""

    def __init__(self, config: Config, *, names: Iterable[str] = ()) -> None:
        """Read the tokens; raise `ConfigError` where the host would stand open or locked.

        `names` are those of its certificate, by which it may be asked for too.
        """
        self._open = config.security.auth == "none"
        self._tokens = config.security.tokens
        bind = config.network.host_bind_ip
        if self._open and not _is_loopback(bind):
            raise ConfigError(
                'security.auth = "none" is allowed on loopback only, but network.host_bind_ip '
                f"is {bind}"
            )
        if not self._open and not any(self._tokens.values()):
            raise ConfigError(
                "security.tokens is empty, so nobody could ask the host for anything; "
                "hakuriver.init writes a file with fresh tokens"
            )
        if not config.security.runner_secret:
            raise ConfigError(
                "security.runner_secret is empty, so no runner could link up; "
                "hakuriver.init writes a file with a fresh one"
            )
        self._names = {
            "localhost",
            config.network.host_reachable_address.lower(),
            socket.gethostname().lower(),
            socket.getfqdn().lower(),
            *names,
        }

    def owner_of(self, headers: HTTPHeaders) -> str:
        """Return the name of the request's token; raise `Unauthorized`."""
        if self._open:
            return "default"
        given = bearer(headers).encode()
        # All are compared, so that the time tells nothing about which one came close.
        fitting = [
            name
            for name, token in self._tokens.items()
            if token and hmac.compare_digest(given, token.encode())
        ]
        if not fitting:
            raise Unauthorized("missing or wrong token (send Authorization: Bearer <token>)")
        return fitting[0]

    def check_origin(self, origin: str | None, host: str) -> None:
        """Refuse what a page of another site sends; programs send no origin."""
        if origin is not None and origin.partition("://")[2].lower() != host.lower():
            raise InvalidRequest("Origin", f"requests of pages from {origin[:80]!r} are refused")

    def check_host(self, header: str) -> None:
        """Refuse a request for a host name that is not ours."""
        host = header.rsplit(":", 1)[0] if not header.endswith("]") else header
        host = host.strip("[]").lower()
        if host not in self._names and not _is_address(host):
            raise InvalidRequest(
                "Host",
                f"{host[:80]!r} is not a name of this host (use network.host_reachable_address)",
            )


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)
