"""HTTP to the host: JSON requests, NDJSON streams, byte streams; errors become our own.

This is the only module that speaks httpx. The token travels in a header and stands in no
message, log line or representation.
"""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, TypeVar

import httpx
import msgspec

from hakuriver._version import __version__
from hakuriver.client.replies import error_from
from hakuriver.errors import ConfigError, HostFault, HostUnreachable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Generator, Mapping

_T = TypeVar("_T")

#: Seconds to find the host, and to get a whole answer to one request.
CONNECT_TIMEOUT = 5.0
REQUEST_TIMEOUT = 60.0
#: A stream that is silent for so many seconds is dead: the host gives a sign of life every 10.
SILENCE_LIMIT = 25.0
#: No line of a stream is longer; a task's arguments and environment alone may fill 1 MiB.
MAX_LINE = 32 << 20

# Small messages must not wait for the acknowledgement of the one before.
_NO_DELAY = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]
# Every followed log holds a connection, so the pool has no upper limit.
_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=8)


class Transport:
    """One host's address, the token for it, and a pool of connections to it.

    Args:
        url: ``http://address:port``, with or without a path that ends before ``/api``.
        token: the client's token; empty for a host that asks for none.
        base: what carries the requests, for tests.
        silence_limit: seconds after which a silent stream counts as broken.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        base: httpx.AsyncBaseTransport | None = None,
        silence_limit: float = SILENCE_LIMIT,
    ) -> None:
        self.url = _check_url(url)
        headers = {"User-Agent": f"hakuriver/{__version__}"}
        if token:
            headers["Authorization"] = f"Bearer {_check_token(token)}"
        secure = self.url.startswith("https:")
        self._client = httpx.AsyncClient(
            base_url=self.url,
            headers=headers,
            # Loading the authorities' certificates takes 20 ms that plain HTTP need not pay.
            transport=base
            or httpx.AsyncHTTPTransport(
                verify=secure, limits=_LIMITS, socket_options=_NO_DELAY, trust_env=False
            ),
            timeout=httpx.Timeout(REQUEST_TIMEOUT, connect=CONNECT_TIMEOUT),
            trust_env=False,
        )
        self._stream_timeout = httpx.Timeout(silence_limit, connect=CONNECT_TIMEOUT)

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
    ) -> _T:
        """Send one request and return its answer decoded as `reply`."""
        content: bytes | None = None
        headers: dict[str, str] = {}
        if method == "POST":
            content = b"{}" if body is None else msgspec.json.encode(body)
            headers["Content-Type"] = "application/json"
        with self._our_errors():
            response = await self._client.request(
                method, path, params=params, content=content, headers=headers
            )
        if not response.is_success:
            raise error_from(self.url, path, response.status_code, response.content)
        return self._decode(response.content, msgspec.json.Decoder(reply))

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
        request = self._client.build_request(
            "GET", path, params=params, timeout=self._stream_timeout
        )
        with self._our_errors():
            response = await self._client.send(request, stream=True)
        try:
            if not response.is_success:
                with self._our_errors():
                    content = await response.aread()
                raise error_from(self.url, path, response.status_code, content)
            yield self._receive(response)
        finally:
            await response.aclose()

    async def close(self) -> None:
        """Close every connection."""
        await self._client.aclose()

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
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol):
            raise HostUnreachable(
                f"no host answers at {self.url}: start one with `hakuriver up` or "
                "`hakuriver.host`, or say where it is with HAKURIVER_URL or --config"
            ) from None
        except httpx.TimeoutException:
            raise HostUnreachable(f"the host at {self.url} has fallen silent") from None
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise HostUnreachable(f"the link to the host at {self.url} broke: {reason}") from None


def _check_url(url: str) -> str:
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, ValueError) as error:
        raise ConfigError(f"{url!r} is no address of a host: {error}") from None
    if parsed.scheme not in {"http", "https"} or not parsed.host or parsed.userinfo:
        raise ConfigError(f"{_unsigned(parsed)!r} is no address: write http://HOST:PORT")
    return url.rstrip("/")


def _unsigned(url: httpx.URL) -> str:
    """Return `url` without a password that it may hold."""
    return str(url.copy_with(username=None, password=None)) if url.userinfo else str(url)


def _check_token(token: str) -> str:
    if not (token.isascii() and token.isprintable() and " " not in token):
        raise ConfigError("the token holds other characters than visible ASCII ones")
    return token
