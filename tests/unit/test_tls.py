from __future__ import annotations

import datetime as dt
import ssl
from typing import TYPE_CHECKING

import msgspec
import pytest

from hakuriver import tls
from hakuriver.cli.setup.certificates import make_authority, make_host
from hakuriver.config import Network
from hakuriver.errors import ConfigError
from support.certificates import Files, make_files

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return make_files(tmp_path / "tls")


def refusal(network: Network) -> str:
    with pytest.raises(ConfigError) as caught:
        tls.serving(network)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_plain_http_needs_nothing(files: Files) -> None:
    assert tls.serving(Network()) is None
    assert tls.serving(Network(tls_ca=str(files.ca))) is None
    assert tls.anchor(Network()) is None


def test_what_a_host_serves_with(files: Files) -> None:
    files.issue(["127.0.0.1", "Head.Example", "n1"], days=30)
    served = tls.serving(files.network)
    assert served is not None
    assert served.names == {"head.example", "n1"}
    assert served.context.minimum_version is ssl.TLSVersion.TLSv1_2
    left = served.not_after - dt.datetime.now(dt.UTC).timestamp()
    assert 28 < left / 86400 < 29.1


def test_both_or_neither(files: Files) -> None:
    network = files.network
    assert "network.tls_key" in refusal(msgspec.structs.replace(network, tls_key=""))
    assert "network.tls_cert" in refusal(msgspec.structs.replace(network, tls_cert=""))


@pytest.mark.parametrize("key", ["tls_cert", "tls_key"])
def test_a_file_that_cannot_be_read_is_named_with_its_key(files: Files, key: str) -> None:
    message = refusal(msgspec.structs.replace(files.network, **{key: "/no/where"}))
    assert f"network.{key}: /no/where cannot be read" in message


def test_a_key_of_another_certificate(files: Files) -> None:
    files.key.write_text(files.authority.key, "ascii")
    message = refusal(files.network)
    assert "network.tls_key" in message
    assert str(files.key) in message
    assert str(files.cert) in message


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("cert", "nothing", "network.tls_cert"),
        ("key", "nothing", "network.tls_key"),
        ("key", "\xe9\x00", "network.tls_key"),
    ],
)
def test_damaged_files(files: Files, name: str, text: str, words: str) -> None:
    path: Path = getattr(files, name)
    path.write_text(text, "utf-8")
    message = refusal(files.network)
    assert words in message
    assert str(path) in message


def test_a_locked_key_asks_nobody(files: Files) -> None:
    files.key.write_text(
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\n"
        "MIHsMFcGCSqGSIb3DQEFDTBKMCkGCSqGSIb3DQEFDDAcBAjkNzV8e5jvnwICCAAw\n"
        "-----END ENCRYPTED PRIVATE KEY-----\n",
        "ascii",
    )
    assert "network.tls_key" in refusal(files.network)


@pytest.mark.parametrize(("ago", "word"), [(5.0, "has expired"), (-5.0, "is not valid yet")])
def test_a_certificate_out_of_its_time(files: Files, ago: float, word: str) -> None:
    files.issue(days=2, ago=ago)
    message = refusal(files.network)
    assert f"network.tls_cert: the certificate {files.cert} {word}" in message


def test_the_anchor_is_the_authoritys_certificate_if_it_is_presented(files: Files) -> None:
    found = tls.anchor(files.network)
    assert found is not None
    assert tls.fingerprint(found) == tls.fingerprint(files.authority.certificate)
    files.issue(alone=True)
    assert tls.anchor(files.network) is None


def test_the_fingerprint_is_of_the_der_form(files: Files) -> None:
    shown = tls.fingerprint(files.ca.read_text())
    assert shown.startswith("sha256:")
    assert len(shown) == 7 + 64
    assert shown != tls.fingerprint(make_authority().certificate)


def test_certificates_are_taken_apart(files: Files) -> None:
    text = files.cert.read_text()
    assert "".join(tls.certificates(f"words before\n{text}")) == text
    assert len(tls.certificates(text)) == 2
    assert tls.certificates("none") == []
    assert tls.certificates(text.rstrip("\n")) == tls.certificates(text)


def test_whom_to_trust(files: Files) -> None:
    context = tls.trusting(str(files.ca))
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert len(context.get_ca_certs()) == 1
    for ca in ("", tls.SYSTEM):
        assert tls.trusting(ca).verify_mode is ssl.CERT_REQUIRED
    for path, word in (("/no/where", "cannot be read"), (str(files.key), "holds no certificate")):
        with pytest.raises(ConfigError, match=r"network\.tls_ca") as caught:
            tls.trusting(path)
        assert path in str(caught.value)
        assert word in str(caught.value)


def verification(code: int, message: str) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "refused")
    error.verify_code, error.verify_message = code, message
    return error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (verification(18, "self-signed certificate"), "network.tls_ca"),
        (verification(19, "self-signed in chain"), "network.tls_ca"),
        (verification(20, "no local issuer"), "network.tls_ca"),
        (verification(62, "Hostname mismatch, not valid for 'x'."), "valid for 'x'"),
        (verification(64, "IP address mismatch"), "--host-name"),
        (verification(10, "expired"), "hakuriver.init --tls"),
        (verification(9, "not yet"), "clocks"),
        (verification(23, "revoked"), "revoked"),
        (ssl.SSLError(1, "[SSL: WRONG] words"), "failed"),
    ],
)
def test_what_is_wrong_is_told(error: ssl.SSLError, words: str) -> None:
    for shown in (error, chained(error)):
        said = tls.explain(shown)
        assert said is not None
        assert words in said
        assert "\n" not in said


def chained(cause: Exception) -> Exception:
    outer = ConnectionError("outer")
    outer.__cause__ = cause
    return outer


def test_other_errors_are_not_ours_to_explain() -> None:
    assert tls.explain(None) is None
    assert tls.explain(chained(OSError("refused"))) is None


def test_a_strict_verifier_accepts_what_is_made(files: Files) -> None:
    """Python 3.13 checks by RFC 5280 by default."""
    served = tls.serving(files.network)
    assert served is not None
    client = tls.trusting(str(files.ca))
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    client.check_hostname = False
    assert tls._shake_hands(served.context, client)["subjectAltName"]


def test_a_host_certificate_ends_with_its_authority() -> None:
    now = dt.datetime.now(dt.UTC)
    authority = make_authority(now=now - dt.timedelta(days=3600))
    made = make_host(authority, ["n"], now=now)
    assert made.not_after <= authority.not_after
    assert authority.key not in repr(authority)
    expired = make_authority(now=now - dt.timedelta(days=4000))
    with pytest.raises(ConfigError, match="has expired"):
        make_host(expired, ["n"], now=now)
