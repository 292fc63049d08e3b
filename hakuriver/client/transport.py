"""HTTP to the host: JSON requests, NDJSON streams, byte streams; errors become our own.

This is the only module that speaks httpx. It uses httpx's transports, not its client, whose
cookies, redirects and authentication nobody needs here and which cost 0.4 ms a request. The token
travels in a header and stands in no message, log line or representation.
"""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager, contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlencode

import httpx
import msgspec

from hakuriver import tls
from hakuriver._version import __version__
from hakuriver.client.backoff import Backoff
from hakuriver.client.replies import error_from
from hakuriver.errors import ConfigError, HostFault, HostUnreachable, TooManyRequests

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncGenerator, AsyncIterator, Generator, Mapping

    from hakuriver.errors import HakuRiverError

_T = TypeVar("_T")

#: Seconds to find the host, and to get a whole answer to one request.
CONNECT_TIMEOUT = 5.0
REQUEST_TIMEOUT = 60.0
#: Seconds for which a request is sent again whose answer was lost.
REPEAT_SECONDS = 60.0
#: A stream that is silent for so many seconds is dead: the host gives a sign of life every 10.
SILENCE_LIMIT = 25.0
#: No line of a stream is longer; a task's arguments and environment alone may fill 1 MiB.
MAX_LINE = 32 << 20

# Small messages must not wait for the acknowledgement of the one before.
_NO_DELAY = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]
# Every followed log holds a connection, so the pool has no upper limit.
_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=8)


class Untrusted(HostUnreachable):
    """Somebody answers, but not with the TLS that was asked for, or not as that host."""


class AnswerLost(HostUnreachable):
    """The connection broke, or fell silent, when the host may have had the request already."""


class Transport:
    """One host's address, the token for it, and a pool of connections to it.

    Args:
        url: ``http://address:port`` or ``https://…``, with or without a path that ends before
            ``/api``.
        token: the client's token; empty for a host that asks for none.
        trust: with what a host that speaks TLS is asked; by default the system's authorities.
        base: what carries the requests, for tests.
        silence_limit: seconds after which a silent stream counts as broken.
        repeat_seconds: seconds for which a request is sent again whose answer was lost, or that
            came too early.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        trust: ssl.SSLContext | None = None,
        base: httpx.AsyncBaseTransport | None = None,
        silence_limit: float = SILENCE_LIMIT,
        repeat_seconds: float = REPEAT_SECONDS,
    ) -> None:
        self.url = _check_url(url)
        headers = {"User-Agent": f"hakuriver/{__version__}"}
        if token:
            headers["Authorization"] = f"Bearer {_check_token(token)}"
        # The class hides the token in its representation.
        self._headers = httpx.Headers(headers)
        self._post_headers = httpx.Headers({**headers, "Content-Type": "application/json"})
        self._http = base or httpx.AsyncHTTPTransport(
            # Loading the authorities' certificates takes 20 ms that plain HTTP need not pay.
            verify=(trust or tls.trusting("")) if self.url.startswith("https:") else False,
            limits=_LIMITS,
            socket_options=_NO_DELAY,
            trust_env=False,
        )
        self._repeat_seconds = repeat_seconds
        self._limits = _limits(REQUEST_TIMEOUT)
        self._stream_limits = _limits(silence_limit)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} to {self.url}>"

    async def request(
        self,
        method: str,
        path: str,
        reply: type[_T],
        *,
        params: Mapping[str, str] | None = None,
        body: msgspec.Struct | None = None,
        repeat: bool = False,
    ) -> _T:
        """Send one request and return its answer decoded as `reply`.

        With `repeat`, for what does nothing more when it arrives twice, the same request is sent
        again when its answer is lost, also while the host is gone. A host that is not there at
        the first attempt is told at once. What was asked too often is asked again when the
        host said, within the time for which a lost answer is awaited.
        """
        backoff = Backoff(self._repeat_seconds)
        lost = False
        while True:
            try:
                return await self._request(method, path, reply, params=params, body=body)
            except TooManyRequests as error:
                # Nothing was done.
                await backoff.wait(error)
            except HostUnreachable as error:
                lost = lost or isinstance(error, AnswerLost)
                if not (repeat and lost):
                    raise
                await backoff.wait(AnswerLost(f"{error}; what became of the request is not known"))

    async def _request(
        self,
        method: str,
        path: str,
        reply: type[_T],
        *,
        params: Mapping[str, str] | None,
        body: msgspec.Struct | None,
    ) -> _T:
        content: bytes | None = None
        if method == "POST":
            content = b"{}" if body is None else msgspec.json.encode(body)
        request = httpx.Request(
            method,
            self._address(path, params),
            headers=self._headers if content is None else self._post_headers,
            content=content,
            extensions=self._limits,
        )
        with self._our_errors():
            response = await self._http.handle_async_request(request)
            try:
                answer = await response.aread()
            except BaseException:
                await response.aclose()
                raise
        if not response.is_success:
            raise self._refusal(path, response, answer)
        return self._decode(answer, msgspec.json.Decoder(reply))

    def _address(self, path: str, params: Mapping[str, str] | None) -> httpx.URL:
        """Return a whole URL; the host refuses text that is no UTF-8, by its name."""
        query = urlencode(params, errors="surrogateescape") if params else ""
        return _parsed(f"{self.url}{path}?{query}" if query else f"{self.url}{path}")

    @asynccontextmanager
    async def lines(
        self, path: str, line: type[_T], *, params: Mapping[str, str] | None = None
    ) -> AsyncGenerator[AsyncIterator[_T]]:
        """Open an NDJSON stream: an iterator of its lines, each decoded as `line`.

        The iterator ends when the host ends the stream, and raises `HostUnreachable` when the
        connection breaks or stays silent too long.
        """
        async with self.chunks(path, params=params) as chunks:
            yield self._split(chunks, msgspec.json.Decoder(line))

    @asynccontextmanager
    async def chunks(
        self, path: str, *, params: Mapping[str, str] | None = None
    ) -> AsyncGenerator[AsyncIterator[bytes]]:
        """Open a byte stream: an iterator of chunks as they arrive, whatever their size."""
        response = await self._open(path, params)
        try:
            yield self._receive(response)
        finally:
            await response.aclose()

    async def _open(self, path: str, params: Mapping[str, str] | None) -> httpx.Response:
        """Return the beginning of a stream; asked too often, a host is asked again later."""
        backoff = Backoff(self._repeat_seconds)
        while True:
            request = httpx.Request(
                "GET",
                self._address(path, params),
                headers=self._headers,
                extensions=self._stream_limits,
            )
            with self._our_errors():
                response = await self._http.handle_async_request(request)
                if response.is_success:
                    return response
                try:
                    content = await response.aread()
                finally:
                    await response.aclose()
            error = self._refusal(path, response, content)
            if not isinstance(error, TooManyRequests):
                raise error
            await backoff.wait(error)

    def _refusal(self, path: str, response: httpx.Response, content: bytes) -> HakuRiverError:
        again = response.headers.get("Retry-After", "")
        return error_from(self.url, path, response.status_code, content, retry_after=again)

    async def close(self) -> None:
        """Close every connection."""
        await self._http.aclose()

    async def _receive(self, response: httpx.Response) -> AsyncIterator[bytes]:
        with self._our_errors():
            async for chunk in response.aiter_bytes():
                yield chunk

    async def _split(
        self, chunks: AsyncIterator[bytes], decoder: msgspec.json.Decoder[_T]
    ) -> AsyncIterator[_T]:
        rest: list[bytes] = []
        size = 0
        async for chunk in chunks:
            first, *others = chunk.split(b"\n")
            rest.append(first)
            size += len(first)
            for piece in others:
                whole = b"".join(rest)
                if whole.strip():
                    yield self._decode(whole, decoder)
                rest, size = [piece], len(piece)
            if size > MAX_LINE:
                raise HostFault(f"the host at {self.url} sent a line over {MAX_LINE} bytes")

    def _decode(self, content: bytes, decoder: msgspec.json.Decoder[_T]) -> _T:
        try:
            return decoder.decode(content)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise HostFault(
                f"the host at {self.url} answered something unexpected ({error}): "
                f"is it a HakuRiver host of version {__version__}?"
            ) from None

    @contextmanager
    def _our_errors(self) -> Generator[None]:
        """Tell httpx's errors in our own words."""
        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol) as error:
            if (reason := tls.explain(error)) is not None:
                raise Untrusted(f"the host at {self.url} cannot be used: {reason}") from None
            raise HostUnreachable(
                f"no host answers at {self.url}: start one with `hakuriver up` or "
                "`hakuriver.host`, or say where it is with HAKURIVER_URL or --config"
            ) from None
        except httpx.TimeoutException:
            raise AnswerLost(f"the host at {self.url} has fallen silent") from None
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise AnswerLost(f"the link to the host at {self.url} broke: {reason}") from None


@lru_cache(64)
def _parsed(url: str) -> httpx.URL:
    """Return `url` in its parts; nearly all requests go to the same few."""
    return httpx.URL(url)


def _limits(silence: float) -> dict[str, object]:
    """Return what tells a transport for how many seconds to wait."""
    return {"timeout": httpx.Timeout(silence, connect=CONNECT_TIMEOUT).as_dict()}


def _check_url(url: str) -> str:
    try:
        parsed, reason = httpx.URL(url), ""
    except (httpx.InvalidURL, ValueError) as error:
        parsed, reason = httpx.URL(""), f": {error}"
    signed = bool(parsed.userinfo)
    if parsed.scheme in {"http", "https"} and parsed.host and not signed:
        return url.rstrip("/")
    if signed or "@" in url:
        # What stands before the last @ may be a password, and so may what httpx says of it.
        raise ConfigError(
            f"no name and no password goes into the address of the host {url.rpartition('@')[2]!r}:"
            " write http://HOST:PORT or https://…, and give the token with HAKURIVER_TOKEN, with "
            "`%hakuriver connect --token-file`, or in [security.tokens] of the configuration file"
        )
    raise ConfigError(f"{url!r} is no address{reason}; write http://HOST:PORT or https://…")


def _check_token(token: str) -> str:
    if not (token.isascii() and token.isprintable() and " " not in token):
        raise ConfigError("the token holds other characters than visible ASCII ones")
    return token
