"""TLS by the standard library: what a host serves with, whom others trust, and why not.

A certificate's fingerprint is the SHA-256 of its DER form, written ``sha256:<hex>``.
"""

from __future__ import annotations

import hashlib
import logging
import re
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from hakuriver.config import expand
from hakuriver.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from hakuriver.config import Network

#: The value of ``network.tls_ca`` that stands for the authorities that this system trusts.
SYSTEM = "system"

# TLS 1.2 with forward secrecy and authenticated encryption alone; TLS 1.3 has nothing else.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n?", re.DOTALL)
_NAME = "host"

# Numbers of OpenSSL's x509_vfy.h.
_NOT_YET, _EXPIRED = 9, 10
_WRONG_NAME = frozenset({62, 64})
_UNKNOWN = frozenset({18, 19, 20, 21})
# What a client's OpenSSL says when the answer is no TLS; which one depends on its version.
_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST"})


@dataclass(frozen=True, slots=True)
class Served:
    """What a host serves with: its context, the names that its certificate is for, its end."""

    context: ssl.SSLContext
    names: frozenset[str]
    not_after: float


def serving(network: Network) -> Served | None:
    """Return what the host serves with, None for plain HTTP.

    Raises:
        ConfigError: certificate and key cannot be used; the message names key and path.
    """
    if not network.tls_cert and not network.tls_key:
        return None
    for key, other in (("tls_cert", "tls_key"), ("tls_key", "tls_cert")):
        if not getattr(network, key):
            raise ConfigError(
                f"network.{key} is empty, but network.{other} is not: a host needs both for TLS"
            )
    cert, key_file = expand(network.tls_cert), expand(network.tls_key)
    text = _read("network.tls_cert", cert)
    _read("network.tls_key", key_file)
    chain = certificates(text)
    if not chain:
        raise ConfigError(f"network.tls_cert: {cert} holds no certificate in PEM form")
    context = _server_context()
    try:
        context.load_cert_chain(cert, key_file, password=lambda: _locked(key_file))
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            reason = f"is not the key of network.tls_cert = {cert}"
        else:
            reason = f"or network.tls_cert = {cert} is damaged ({_words(error)})"
        raise ConfigError(f"network.tls_key: {key_file} {reason}") from None
    shown = _shown(context, chain[0], cert)
    names = frozenset(
        value.lower() for kind, value in shown.get("subjectAltName", ()) if kind == "DNS"
    )
    return Served(context, names, ssl.cert_time_to_seconds(shown["notAfter"]))


def trusting(ca: str) -> ssl.SSLContext:
    """Return what a client or runner asks with; `ca` is the value of ``network.tls_ca``.

    Empty stands for the system's authorities too.

    Raises:
        ConfigError: the file cannot be used.
    """
    if ca in ("", SYSTEM):
        return _client_context(None)
    path = expand(ca)
    text = _read("network.tls_ca", path)
    try:
        return trusting_only(text)
    except (ssl.SSLError, ValueError):
        raise ConfigError(
            f"network.tls_ca: {path} holds no certificate in PEM form: copy the authority's there"
        ) from None


def trusting_only(pem: str) -> ssl.SSLContext:
    """Return a client's context that trusts these certificates and no others.

    Raises `ssl.SSLError` or `ValueError` if there are none.
    """
    return _client_context("".join(certificates(pem)))


def certificates(text: str) -> list[str]:
    """Return the certificates of a PEM text, each as PEM, in their order."""
    return [found if found.endswith("\n") else f"{found}\n" for found in _PEM.findall(text)]


def fingerprint(pem: str) -> str:
    """Return the fingerprint of one certificate.

    Raises `ValueError` if it is none.
    """
    return f"sha256:{hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()}"


def anchor(network: Network) -> str | None:
    """Return the certificate, of those that the host presents, by which a new node can trust it.

    That is the authority's, or the host's own if it signed itself; None if none of them is enough
    alone, as with a public authority.

    Raises:
        ConfigError: certificate and key cannot be used.
    """
    served = serving(network)
    if served is None:
        return None
    presented = certificates(_read("network.tls_cert", expand(network.tls_cert)))
    for candidate in reversed(presented):
        client = trusting_only(candidate)
        client.check_hostname = False
        try:
            _shake_hands(served.context, client)
        except ssl.SSLError:
            continue
        return candidate
    return None


def explain(error: BaseException | None) -> str | None:
    """Return what is wrong with the other side's TLS and how to mend it; None for other errors.

    The error may be one of those that led to `error`.
    """
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return _distrust(cause)
        if isinstance(cause, ssl.SSLError):
            if getattr(cause, "reason", None) in _NO_TLS:
                return "it speaks plain HTTP: write http:// for it, or set up TLS there"
            return f"TLS with it failed ({_words(cause)})"
    return None


def leave_to_callers() -> None:
    """Keep Tornado from logging each failed handshake: whoever wanted it tells of it in words."""
    logging.getLogger("tornado.general").addFilter(_is_no_handshake)


def _is_no_handshake(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("SSL Error")


def _distrust(error: ssl.SSLCertVerificationError) -> str:
    code = error.verify_code
    if code in _UNKNOWN:
        return (
            "its certificate is of an authority that is not trusted here: give that authority's "
            "certificate as network.tls_ca (HAKURIVER_NETWORK_TLS_CA)"
        )
    if code in _WRONG_NAME:
        said = error.verify_message.rstrip(".")
        return (
            f"its certificate is for other names ({said}): use a name that it is for, or make a "
            "new one there with `hakuriver.init --tls --host-name NAME`"
        )
    if code == _EXPIRED:
        return (
            "its certificate has expired: renew it there with `hakuriver.init --tls` and restart "
            "the host (or this machine's clock is wrong)"
        )
    if code == _NOT_YET:
        return "its certificate is not valid yet: compare the clocks of both machines"
    return f"its certificate is not accepted ({error.verify_message})"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _words(error: ssl.SSLError) -> str:
    return str(getattr(error, "reason", None) or "not understood").lower().replace("_", " ")


def _server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    return context


def _client_context(pem: str | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    if pem is None:
        context.load_default_certs()
    else:
        context.load_verify_locations(cadata=pem)
    return context


def _read(key: str, path: Path) -> str:
    try:
        return path.read_text("ascii", "replace")
    except OSError as error:
        raise ConfigError(f"{key}: {path} cannot be read ({error.strerror})") from None


def _locked(path: Path) -> str:
    # Without this OpenSSL would ask on the terminal.
    raise ConfigError(f"network.tls_key: {path} is locked by a password; a host needs it open")


def _shown(context: ssl.SSLContext, own: str, path: Path) -> dict[str, Any]:
    """Return what a host's certificate says, as a client that trusts it sees it.

    The standard library reads no certificate but in a handshake, so there is one, with itself.
    """
    client = trusting_only(own)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        return _shake_hands(context, client)
    except ssl.SSLCertVerificationError as error:
        reason = f"cannot be used ({error.verify_message})"
        if error.verify_code == _EXPIRED:
            reason = "has expired: `hakuriver.init --tls` renews one that it made"
        elif error.verify_code == _NOT_YET:
            reason = "is not valid yet: look at this machine's clock"
        raise ConfigError(f"network.tls_cert: the certificate {path} {reason}") from None
    except ssl.SSLError as error:
        raise ConfigError(f"network.tls_cert: {path} cannot be used ({_words(error)})") from None


def _shake_hands(server: ssl.SSLContext, client: ssl.SSLContext) -> dict[str, Any]:
    """Return the server's certificate as `client` reads it; raise `ssl.SSLError` if it does not."""
    asked, told = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.wrap_bio(told, asked, server_hostname=_NAME),
        server.wrap_bio(asked, told, server_side=True),
    )
    # Three turns are what TLS 1.2 needs.
    for _ in range(3):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return cast("dict[str, Any]", ends[0].getpeercert() or {})
