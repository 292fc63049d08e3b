from __future__ import annotations

import asyncio
import json
import socket
from typing import TYPE_CHECKING

import httpx
import msgspec
import pytest

from hakuriver.client.transport import Transport
from hakuriver.errors import (
    ConfigError,
    Conflict,
    HakuRiverError,
    HostFault,
    HostUnreachable,
    InvalidRequest,
    NodeOffline,
    NotFound,
    SubmissionRefused,
    TooManyRequests,
    Unauthorized,
)
from hakuriver.model.views import Event, SubmitReply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

pytestmark = pytest.mark.asyncio

TOKEN = "a-token-that-nobody-may-see"


class Reply(msgspec.Struct):
    value: int


def transport(handler: Callable[[httpx.Request], httpx.Response]) -> Transport:
    return Transport("http://host:8000/", TOKEN, base=httpx.MockTransport(handler))


def failing(status: int, body: object, path: str = "/api/status/1") -> Transport:
    def answer(request: httpx.Request) -> httpx.Response:
        assert request.url.path == path
        return httpx.Response(status, json=body)

    return transport(answer)


async def test_a_request_bears_the_token_and_its_answer_is_decoded() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert request.headers["Authorization"] == f"Bearer {TOKEN}"
        assert str(request.url) == "http://host:8000/api/x?limit=3"
        return httpx.Response(200, json={"value": 7, "unknown": "is no fault"})

    reply = await transport(answer).request("GET", "/api/x", Reply, params={"limit": "3"})
    assert reply.value == 7


async def test_a_post_is_json_even_without_a_body() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert request.headers["Content-Type"] == "application/json"
        return httpx.Response(202, json={"value": json.loads(request.content).get("value", 0)})

    there = transport(answer)
    assert (await there.request("POST", "/api/kill/1", Reply)).value == 0
    assert (await there.request("POST", "/api/kill/1", Reply, body=Reply(5))).value == 5


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, Unauthorized),
        (403, Unauthorized),
        (404, NotFound),
        (409, Conflict),
        (413, InvalidRequest),
        (500, HostFault),
        (503, NodeOffline),
    ],
)
async def test_a_status_becomes_the_fitting_error(status: int, error: type[HakuRiverError]) -> None:
    with pytest.raises(error, match="this is why"):
        await failing(status, {"detail": "this is why"}).request("GET", "/api/status/1", Reply)


async def test_fields_that_are_refused_are_named() -> None:
    fields = [{"field": f"f{number}", "reason": f"is {number}"} for number in range(5)]
    with pytest.raises(InvalidRequest, match="f0: is 0; f1: is 1; f2: is 2") as caught:
        await failing(422, {"detail": fields}).request("GET", "/api/status/1", Reply)
    assert caught.value.field == "f0"


@pytest.mark.parametrize("status", [404, 422, 503])
async def test_a_refused_submission_tells_every_target(status: int) -> None:
    body = {
        "detail": "no task was created",
        "failed_targets": [
            {"target": "a", "reason": "there is no node 'a'"},
            {"target": "b", "reason": "is offline"},
        ],
    }
    with pytest.raises(SubmissionRefused, match="a: there is no node 'a'; b: is offline") as caught:
        await failing(status, body, "/api/submit").request("POST", "/api/submit", SubmitReply)
    assert [failed.target for failed in caught.value.failed_targets] == ["a", "b"]


async def test_no_node_for_a_submission_is_a_refusal_too() -> None:
    there = failing(503, {"detail": "no node is online"}, "/api/submit")
    with pytest.raises(SubmissionRefused, match="no node is online"):
        await there.request("POST", "/api/submit", SubmitReply)


@pytest.mark.parametrize("status", [200, 302, 500])
@pytest.mark.parametrize("body", ["<html>a proxy</html>", '{"value": "text"}', ""])
async def test_an_answer_of_something_else_is_a_fault_that_names_the_host(
    body: str, status: int
) -> None:
    with pytest.raises(HostFault, match="http://host:8000"):
        await transport(lambda _: httpx.Response(status, text=body)).request("GET", "/api/x", Reply)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (httpx.ConnectError("refused"), "no host answers at http://host:8000.*hakuriver up"),
        (httpx.ConnectTimeout("slow"), "no host answers"),
        (httpx.ReadTimeout("slow"), "fallen silent"),
        (httpx.RemoteProtocolError("closed early"), "broke: closed early"),
        (httpx.ReadError(""), "broke: ReadError"),
    ],
)
async def test_a_link_that_fails_is_told_in_our_words(fault: Exception, words: str) -> None:
    def answer(_: httpx.Request) -> httpx.Response:
        raise fault

    with pytest.raises(HostUnreachable, match=words) as caught:
        await transport(answer).request("GET", "/api/x", Reply)
    assert caught.value.__suppress_context__


class Flaky:
    """Fails as it is told, one failure for each request, and answers after that."""

    def __init__(self, *faults: Exception) -> None:
        self.faults = list(faults)
        self.bodies: list[bytes] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.bodies.append(request.content)
        if self.faults:
            raise self.faults.pop(0)
        return httpx.Response(200, json={"value": 7})


LOST = httpx.RemoteProtocolError("closed early")
NOBODY = httpx.ConnectError("refused")


@pytest.mark.parametrize("faults", [[LOST], [httpx.ReadTimeout("slow"), NOBODY, NOBODY]])
async def test_a_request_whose_answer_is_lost_is_sent_again(faults: list[Exception]) -> None:
    flaky = Flaky(*faults)
    reply = await transport(flaky).request("POST", "/api/x", Reply, body=Reply(5), repeat=True)
    assert reply.value == 7
    assert flaky.bodies == [b'{"value":5}'] * (len(faults) + 1)


@pytest.mark.parametrize(("fault", "repeat"), [(NOBODY, True), (LOST, False)])
async def test_nobody_there_is_told_at_once_and_so_is_what_must_not_be_sent_twice(
    fault: Exception,
    repeat: bool,  # noqa: FBT001 - pytest gives it by name
) -> None:
    flaky = Flaky(fault)
    with pytest.raises(HostUnreachable):
        await transport(flaky).request("POST", "/api/x", Reply, repeat=repeat)
    assert len(flaky.bodies) == 1


async def test_the_patience_for_a_lost_answer_has_an_end() -> None:
    flaky = Flaky(LOST, *[NOBODY] * 99)
    there = Transport("http://host:1", TOKEN, base=httpx.MockTransport(flaky), repeat_seconds=0.1)
    with pytest.raises(HostUnreachable, match="what became of the request is not known"):
        await there.request("POST", "/api/x", Reply, repeat=True)
    assert len(flaky.bodies) > 1


async def test_a_refusal_after_a_lost_answer_is_told() -> None:
    lost = [LOST]

    def answer(_: httpx.Request) -> httpx.Response:
        if lost:
            raise lost.pop()
        return httpx.Response(409, json={"detail": "the key was used for something else"})

    with pytest.raises(Conflict, match="the key was used"):
        await transport(answer).request("POST", "/api/submit", Reply, repeat=True)


class Chunks(httpx.AsyncByteStream):
    def __init__(self, *chunks: bytes, fault: Exception | None = None) -> None:
        self.chunks = chunks
        self.fault = fault
        self.closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self.chunks:
            yield chunk
        if self.fault is not None:
            raise self.fault

    async def aclose(self) -> None:
        self.closed = True


async def test_lines_are_decoded_however_they_are_cut() -> None:
    stream = Chunks(b'{"re', b'v": 1}\n{"rev": 2}', b"\n\n", b'{"rev": 3}\n{"rev"')
    there = transport(lambda _: httpx.Response(200, stream=stream))
    async with there.lines("/api/events", Event) as events:
        assert [event.rev async for event in events] == [1, 2, 3]
    assert stream.closed


async def test_a_stream_that_breaks_gives_what_came_before() -> None:
    stream = Chunks(b'{"rev": 1}\n', fault=httpx.ReadTimeout("silence"))
    there = transport(lambda _: httpx.Response(200, stream=stream))
    async with there.lines("/api/events", Event) as events:
        assert (await anext(events)).rev == 1
        with pytest.raises(HostUnreachable, match="silent"):
            await anext(events)
    assert stream.closed


async def test_a_refused_stream_raises_when_it_is_opened() -> None:
    there = transport(lambda _: httpx.Response(404, json={"detail": "no task 1"}))
    with pytest.raises(NotFound, match="no task 1"):
        async with there.chunks("/api/task/1/stdout"):
            pytest.fail("it was opened")


async def test_leaving_a_stream_early_closes_it() -> None:
    stream = Chunks(b"one", b"two", b"three")
    there = transport(lambda _: httpx.Response(200, stream=stream))
    async with there.chunks("/api/task/1/stdout") as chunks:
        assert await anext(chunks) == b"one"
    assert stream.closed


@pytest.mark.parametrize("url", ["host:8000", "ftp://host", "http://", "", "http://host:port"])
async def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=r"is no address.*write http://HOST:PORT") as caught:
        Transport(url, TOKEN)
    assert repr(url) in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://me:pw@host:1",
        "http://me@host:1",
        "me:pw@host:1",
        # What httpx cannot read, for the port, for a character, for a password with a slash.
        "http://me:pw@host:1x",
        "http://me:pw@ho\nst:1",
        "http://me:pw/@host:1",
    ],
)
async def test_an_address_takes_no_password_and_the_refusal_says_where_the_token_goes(
    url: str,
) -> None:
    with pytest.raises(ConfigError, match=r"no name and no password.*HAKURIVER_TOKEN") as caught:
        Transport(url, TOKEN)
    assert repr(url.rpartition("@")[2]) in str(caught.value)
    assert "me:" not in str(caught.value)
    assert "pw" not in str(caught.value)


async def test_an_at_in_the_path_of_an_address_is_no_password() -> None:
    there = Transport("http://hub/user/me@example.org/proxy/8000", TOKEN)
    assert there.url == "http://hub/user/me@example.org/proxy/8000"
    await there.close()


@pytest.mark.parametrize("token", ["two words", "a\nb", "ä"])
async def test_a_token_no_header_can_bear_is_refused_without_showing_it(token: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Transport("http://host:1", token)
    assert token not in str(caught.value)


async def test_the_token_is_in_no_representation() -> None:
    there = Transport("http://host:8000", TOKEN)
    assert TOKEN not in repr(there) + repr(there.__dict__)
    await there.close()


async def test_small_messages_are_not_held_back_and_proxies_not_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        there = Transport(f"http://127.0.0.1:{port}", TOKEN)
        pool = there._http._pool  # type: ignore[attr-defined]
        assert (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1) in pool._socket_options
        with pytest.raises(HostUnreachable, match=f"127.0.0.1:{port}"):
            await there.request("GET", "/api/x", Reply)
        await there.close()


async def test_what_was_asked_too_often_is_asked_again_a_little_later() -> None:
    asked = 0

    def busy(_: httpx.Request) -> httpx.Response:
        nonlocal asked
        asked += 1
        if asked < 3:
            return httpx.Response(429, json={"detail": "too many requests"})
        return httpx.Response(200, json={"value": asked})

    # Nothing was done, so that it may be sent again whatever it does.
    assert (await transport(busy).request("POST", "/api/kill/1", Reply)).value == 3


@pytest.mark.parametrize(
    "body",
    [
        "<html>429 Too Many Requests</html>",
        "",
        "[]",
        '{"detail": [{"field": "rate", "reason": "is over"}]}',
        '{"detail": "no", "failed_targets": [{"target": "a", "reason": "is busy"}]}',
    ],
)
async def test_a_proxy_may_say_in_words_of_its_own_that_it_was_asked_too_often(body: str) -> None:
    asked = 0

    def busy(_: httpx.Request) -> httpx.Response:
        nonlocal asked
        asked += 1
        if asked < 3:
            return httpx.Response(429, text=body)
        return httpx.Response(200, json={"value": asked})

    assert (await transport(busy).request("POST", "/api/submit", Reply)).value == 3


async def test_a_proxy_says_when_to_ask_again() -> None:
    def busy(_: httpx.Request) -> httpx.Response:
        return httpx.Response(429, headers={"Retry-After": "7"}, text="<html>")

    there = Transport("http://h:1", TOKEN, base=httpx.MockTransport(busy), repeat_seconds=0.1)
    with pytest.raises(TooManyRequests, match="host at http://h:1 was asked too often") as caught:
        await there.request("GET", "/api/x", Reply)
    assert caught.value.retry_after == 7


@pytest.mark.parametrize(("told", "seconds"), [(0.25, 0.25), (0, 0), (None, 3), (-1, 3), ("x", 3)])
async def test_an_exact_time_in_the_body_goes_before_the_header(
    told: object, seconds: float
) -> None:
    def busy(_: httpx.Request) -> httpx.Response:
        refusal = {"detail": "too many requests", "retry_after": told}
        return httpx.Response(429, headers={"Retry-After": "3"}, json=refusal)

    there = Transport("http://h:1", TOKEN, base=httpx.MockTransport(busy), repeat_seconds=0)
    with pytest.raises(TooManyRequests) as caught:
        await there.request("GET", "/api/x", Reply)
    assert caught.value.retry_after == seconds


async def test_whoever_is_always_too_early_is_told() -> None:
    def busy(_: httpx.Request) -> httpx.Response:
        return httpx.Response(429, json={"detail": "too many requests"})

    there = Transport("http://h:1", TOKEN, base=httpx.MockTransport(busy), repeat_seconds=0.1)
    with pytest.raises(TooManyRequests, match="too many requests"):
        await there.request("GET", "/api/x", Reply)


@pytest.mark.parametrize("told", ["3600", "9" * 500])
async def test_patience_is_no_longer_than_ours_whatever_the_host_says(told: str) -> None:
    asked = 0

    def busy(_: httpx.Request) -> httpx.Response:
        nonlocal asked
        asked += 1
        refusal = {"detail": "too many requests"}
        return httpx.Response(429, headers={"Retry-After": told}, json=refusal)

    there = Transport("http://h:1", TOKEN, base=httpx.MockTransport(busy), repeat_seconds=0.1)
    async with asyncio.timeout(30):
        with pytest.raises(TooManyRequests, match="too many requests") as caught:
            await there.request("GET", "/api/x", Reply)
    assert caught.value.retry_after == float(told)
    # Once more when patience ended.
    assert asked == 2


@pytest.mark.parametrize("told", ["", "soon", "-5", "0", "²", "Wed, 21 Oct 2099 07:28:00 GMT"])
async def test_what_says_no_seconds_leaves_the_pauses_ours(told: str) -> None:
    asked = 0

    def busy(_: httpx.Request) -> httpx.Response:
        nonlocal asked
        asked += 1
        if asked < 3:
            headers = {b"Retry-After": told.encode("latin-1")}
            return httpx.Response(429, headers=headers, json={"detail": "too many requests"})
        return httpx.Response(200, json={"value": asked})

    async with asyncio.timeout(30):
        assert (await transport(busy).request("GET", "/api/x", Reply)).value == 3


async def test_a_stream_that_was_asked_for_too_often_is_opened_when_the_host_said() -> None:
    loop = asyncio.get_running_loop()
    asked: list[float] = []
    refused = Chunks(b'{"detail": "too many requests"}')

    def busy(_: httpx.Request) -> httpx.Response:
        asked.append(loop.time())
        if len(asked) == 1:
            return httpx.Response(429, headers={"Retry-After": "1"}, stream=refused)
        return httpx.Response(200, stream=Chunks(b"a log"))

    async with transport(busy).chunks("/api/task/1/stdout") as chunks:
        assert [chunk async for chunk in chunks] == [b"a log"]
    assert refused.closed
    # Later than that it comes where the machine is slow, not for the thirty seconds of patience.
    assert 1 <= asked[1] - asked[0] < 20
