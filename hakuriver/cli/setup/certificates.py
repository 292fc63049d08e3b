"""Making a cluster's own authority, and certificates of it. Does no input or output.

Needs the package ``cryptography`` (the extra ``tls``). Keys are of the curve P-256: a handshake
with them takes a tenth of the time of one with RSA.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hakuriver.errors import ConfigError, InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Iterable

#: How long an authority holds; nodes know it, so that a new one means that all join anew.
AUTHORITY_DAYS = 3650
#: The longest that clients of some systems accept in a host's certificate.
HOST_DAYS = 825

# So much earlier they hold, for machines whose clocks are behind.
_SKEW = dt.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and the key to it, both as PEM; after a host's follows its authority's."""

    certificate: str
    key: str = field(repr=False)

    @property
    def not_after(self) -> dt.datetime:
        """When the first certificate ends."""
        return _certificate(self).not_valid_after_utc


def make_authority(*, now: dt.datetime | None = None) -> Pair:
    """Return a new authority of its own."""
    key = _new_key()
    # A name of its own: by the name alone OpenSSL tells two authorities apart.
    name = _named(f"HakuRiver cluster {x509.random_serial_number():x}"[:40])
    builder = _builder(name, name, key, _now(now), AUTHORITY_DAYS)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(authority=True), critical=True)
    return Pair(_pem(builder.sign(key, hashes.SHA256())), _key_pem(key))


def make_host(
    authority: Pair,
    names: Iterable[str],
    *,
    key: str | None = None,
    days: int = HOST_DAYS,
    now: dt.datetime | None = None,
) -> Pair:
    """Return a host's certificate for `names`, with that of `authority` after it.

    Args:
        authority: who signs it.
        names: host names and addresses.
        key: the host's, as PEM; without it a new one is made.
        days: how long it holds.
        now: when it begins to.

    Raises:
        ConfigError: a certificate or a key cannot be used, or the authority has expired.
        InvalidRequest: that is no name.
    """
    root, signer = _certificate(authority), _read_key(authority.key)
    if root.public_key() != signer.public_key():
        raise ConfigError("the authority's certificate and key do not belong together")
    begin = _now(now)
    if root.not_valid_after_utc < begin:
        raise ConfigError("the authority has expired")
    own = _new_key() if key is None else _read_key(key)
    # No longer than the authority itself.
    days = min(days, (root.not_valid_after_utc - begin + _SKEW).days)
    builder = _builder(_named("HakuRiver host"), root.subject, own, begin, days)
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    by = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    builder = builder.add_extension(
        x509.SubjectAlternativeName(_alternatives(names)), critical=False
    )
    builder = builder.add_extension(
        x509.BasicConstraints(ca=False, path_length=None), critical=True
    )
    builder = builder.add_extension(_usage(authority=False), critical=True)
    builder = builder.add_extension(usage, critical=False)
    builder = builder.add_extension(by, critical=False)
    signed = builder.sign(signer, hashes.SHA256())
    return Pair(_pem(signed) + _pem(root), _key_pem(own))


def _alternatives(names: Iterable[str]) -> list[x509.GeneralName]:
    found: list[x509.GeneralName] = []
    for name in dict.fromkeys(names):
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            if (
                not name
                or not name.isascii()
                or any(sign.isspace() or sign in ":/@" for sign in name)
            ):
                raise InvalidRequest("--host-name", f"{name!r} is no name of a machine") from None
            found.append(x509.DNSName(name))
    return found


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    now: dt.datetime,
    days: int,
) -> x509.CertificateBuilder:
    begin = now - _SKEW
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + dt.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _now(given: dt.datetime | None) -> dt.datetime:
    return given or dt.datetime.now(dt.UTC)


def _named(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _read_key(pem: str) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(pem.encode(), None)
    except (ValueError, TypeError):
        raise ConfigError("a key of TLS is damaged or locked by a password") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError("a key of TLS was not made by hakuriver.init")
    return key


def _certificate(pair: Pair) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(pair.certificate.encode())
    except ValueError:
        raise ConfigError("the authority's certificate is damaged") from None


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()
