"""Knowing a host by its authority's fingerprint, before anything else is told to it."""

from __future__ import annotations

import hmac
import re
import socket
import ssl
import sys
from typing import Any

from hakuriver import tls
from hakuriver.client.transport import CONNECT_TIMEOUT, Untrusted
from hakuriver.errors import HostUnreachable, InvalidRequest

_FORM = re.compile(r"sha256:[0-9a-f]{64}")
# Of CPython's own module `_ssl`, the form without the PEM lines around it.
_DER = 2


def checked(fingerprint: str) -> str:
    """Return a fingerprint as `hakuriver.tls.fingerprint` writes it; raise `InvalidRequest`."""
    plain = fingerprint.strip().lower()
    if not _FORM.fullmatch(plain):
        raise InvalidRequest(
            "--ca-fingerprint", "is no fingerprint: copy the whole line of `hakuriver token` again"
        )
    return plain


def authority_of(address: str, port: int, fingerprint: str) -> str:
    """Return the certificate with this fingerprint, of those that a host presents, as PEM.

    Nothing is said to the host but the beginning of TLS.

    Raises:
        HostUnreachable: nobody answers there, or not in TLS.
        Untrusted: it presents other certificates.
    """
    where = f"{address}:{port}"
    try:
        presented = _presented(address, port)
    except OSError as error:
        if (reason := tls.explain(error)) is not None:
            raise Untrusted(f"the host at {where} cannot be used: {reason}") from None
        raise HostUnreachable(
            f"no host answers at {where}: is it running, and does it listen on an address "
            "that this machine can reach (network.host_bind_ip on its machine)?"
        ) from None
    # All are compared, and each in constant time.
    fitting = [
        each for each in presented if hmac.compare_digest(tls.fingerprint(each), fingerprint)
    ]
    if not fitting:
        raise Untrusted(
            f"what answers at {where} presents no certificate with this fingerprint, so the token "
            "was not sent: it is another machine, or it has a new authority: make a new line "
            "with `hakuriver token` on the host's machine"
        )
    return fitting[0]


def _presented(address: str, port: int) -> list[str]:
    """Return the certificates that a host shows, unverified."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with (
        socket.create_connection((address, port), CONNECT_TIMEOUT) as connection,
        context.wrap_socket(connection, server_hostname=address) as wrapped,
    ):
        # CPython has had it since 3.10, but under no public name before 3.13.
        found: list[Any]
        if sys.version_info >= (3, 13):
            found = list(wrapped.get_unverified_chain())
        else:
            inner: Any = getattr(wrapped, "_sslobj")  # noqa: B009 - its type knows no such name
            found = [each.public_bytes(_DER) for each in inner.get_unverified_chain() or ()]
    return [ssl.DER_cert_to_PEM_cert(each) for each in found]
