from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tornado.httputil import HTTPHeaders

from hakuriver.config import Config, Network, Security
from hakuriver.errors import ConfigError, InvalidRequest, Unauthorized
from hakuriver.host.auth import Gate, bearer

SECURITY = Security(runner_secret="s", tokens={"alice": "token-a", "böb": "tökén"})


def gate(*, bind: str = "127.0.0.1", address: str = "head.example", **security: object) -> Gate:
    changed = msgspec.structs.replace(SECURITY, **security)
    network = Network(host_bind_ip=bind, host_reachable_address=address)
    return Gate(Config(network=network, security=changed))


@pytest.mark.parametrize(
    ("header", "token"),
    [
        ("Bearer abc", "abc"),
        ("bearer  abc ", "abc"),
        ("Basic abc", ""),
        ("Bearer", ""),
        ("", ""),
        ("abc", ""),
    ],
)
def test_bearer(header: str, token: str) -> None:
    assert bearer(HTTPHeaders({"Authorization": header})) == token
    assert bearer(HTTPHeaders()) == ""


def test_the_tokens_name_is_the_owner() -> None:
    assert gate().owner_of(HTTPHeaders({"Authorization": "Bearer token-a"})) == "alice"
    assert gate().owner_of(HTTPHeaders({"Authorization": "Bearer tökén"})) == "böb"


@pytest.mark.parametrize("given", ["", "Bearer ", "Bearer token", "Bearer token-aa", "token-a"])
def test_a_wrong_token_is_refused_without_being_repeated(given: str) -> None:
    with pytest.raises(Unauthorized) as caught:
        gate().owner_of(HTTPHeaders({"Authorization": given}))
    assert "token-a" not in str(caught.value)


def test_an_empty_token_opens_nothing() -> None:
    half = gate(tokens={"alice": "token-a", "nobody": ""})
    with pytest.raises(Unauthorized):
        half.owner_of(HTTPHeaders())


@pytest.mark.parametrize("bind", ["127.0.0.1", "127.0.0.9", "::1", "localhost"])
def test_without_tokens_on_loopback(bind: str) -> None:
    assert gate(bind=bind, auth="none", tokens={}).owner_of(HTTPHeaders()) == "default"


@pytest.mark.parametrize("bind", ["0.0.0.0", "", "::", "192.168.1.2", "head.example"])
def test_a_host_that_would_stand_open_does_not_start(bind: str) -> None:
    with pytest.raises(ConfigError, match=r"security\.auth"):
        gate(bind=bind, auth="none")


@pytest.mark.parametrize(
    ("security", "key"),
    [
        ({"tokens": {}}, "security.tokens"),
        ({"tokens": {"default": ""}}, "security.tokens"),
        ({"runner_secret": ""}, "security.runner_secret"),
    ],
)
def test_a_host_that_nobody_could_use_does_not_start(security: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        gate(**security)
    assert key in str(caught.value)


@pytest.mark.parametrize(
    "header",
    [
        "localhost",
        "LOCALHOST:8000",
        "127.0.0.1:8000",
        "10.1.2.3",
        "[::1]:8000",
        "[::1]",
        "[fe80::1]:1",
        "head.example:8000",
        "Head.Example",
    ],
)
def test_our_own_names_are_let_in(header: str) -> None:
    gate().check_host(header)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "evil.example",
        "evil.example:8000",
        "head.example.evil",
        "127.0.0.1.evil:80",
        "[evil]:80",
    ],
)
def test_a_name_that_was_bound_to_our_address_is_not(header: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        gate().check_host(header)
    assert caught.value.field == "Host"


@pytest.mark.parametrize("origin", [None, "http://127.0.0.1:8000", "https://127.0.0.1:8000"])
def test_programs_and_own_pages_may_ask(origin: str | None) -> None:
    gate().check_origin(origin, "127.0.0.1:8000")


@pytest.mark.parametrize("origin", ["http://evil.example", "http://127.0.0.1:9", "null", ""])
def test_pages_of_other_sites_may_not(origin: str) -> None:
    with pytest.raises(InvalidRequest, match="Origin"):
        gate().check_origin(origin, "127.0.0.1:8000")
