"""What all handlers share: tokens, checks, JSON, errors as the contract words them, streams."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar, cast

import msgspec
from tornado.http1connection import HTTP1Connection
from tornado.iostream import IOStream, StreamClosedError
from tornado.web import Application, HTTPError, RequestHandler

from hakuriver.errors import (
    HakuRiverError,
    InvalidRequest,
    SubmissionRefused,
    TooManyRequests,
    Unauthorized,
)
from hakuriver.host.api.queries import decode_query
from hakuriver.model.submission import MAX_REQUEST
from hakuriver.model.views import ErrorView, FieldError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from tornado.httputil import HTTPServerRequest

    from hakuriver.host.rates import Rate
    from hakuriver.host.services import Services

logger = logging.getLogger(__name__)

KEEP_ALIVE_SECONDS = 10.0
#: So long a piece of an answer may lie unread, in seconds.
STALL_SECONDS = 30.0
_REFUSAL_SECONDS = 0.2
_INTERNAL = "the host failed on this request; its log has the details"

Q = TypeVar("Q", bound=msgspec.Struct)


def services_of(application: Application) -> Services:
    """Return the parts of the host that an application serves."""
    return cast("Services", application.settings["services"])


def stream_of(request: HTTPServerRequest) -> IOStream | None:
    """Return the connection that a request came by; None once it serves something else."""
    connection = request.connection
    return connection.stream if isinstance(connection, HTTP1Connection) else None


def count_in(rate: Rate, asker: str) -> None:
    """Note that somebody asks; raise `TooManyRequests` if it is too often."""
    wait = rate.take(asker, time.monotonic())
    if wait > 0:
        raise TooManyRequests(f"too many requests; try again in {math.ceil(wait)} s", wait)


def methods_of(handler: type[RequestHandler]) -> list[str]:
    """Return the HTTP methods that a handler answers."""
    return [
        name
        for name in RequestHandler.SUPPORTED_METHODS
        if getattr(handler, name.lower()) is not getattr(RequestHandler, name.lower())
    ]


def refusal_of(handler: RequestHandler, error: HakuRiverError) -> ErrorView:
    """Return the body for an error; when to ask again is exact there, and rounded up in a header.

    The header takes whole seconds alone.
    """
    if not isinstance(error, TooManyRequests):
        return ErrorView(detail=str(error))
    handler.set_header("Retry-After", str(math.ceil(error.retry_after)))
    return ErrorView(detail=str(error), retry_after=error.retry_after)


class ApiHandler(RequestHandler):
    """A handler whose requests bear a client's token; `owner` is the token's name."""

    owner: str
    _gone: asyncio.Future[None]
    _streams = False

    @property
    def services(self) -> Services:
        """The parts of the host."""
        return services_of(self.application)

    def prepare(self) -> None:
        """Check host name, token, rate and content type before anything is done."""
        self._gone = asyncio.get_running_loop().create_future()
        if self._socket is not None:
            # Small answers and log lines go out at once instead of waiting for one another.
            self._socket.set_nodelay(True)
        self.check_page()
        self.owner = self._known()
        if self.request.method == "POST":
            self._check_body()

    def _known(self) -> str:
        """Return whose request it is, if he may ask now; raise `TooManyRequests`."""
        try:
            owner = self.authenticate()
        except Unauthorized:
            # The right token is let in all the same: nobody can lock out others by guessing.
            count_in(self.services.guesses, str(self.request.remote_ip))
            raise
        count_in(self.services.requests, owner)
        self.services.strangers.forget(self._socket)
        return owner

    @property
    def _socket(self) -> IOStream | None:
        return stream_of(self.request)

    def check_page(self) -> None:
        """Refuse what a page of another site made a browser send."""
        host = self.request.headers.get("Host", "")
        self.services.gate.check_host(host)
        self.services.gate.check_origin(self.request.headers.get("Origin"), host)

    def authenticate(self) -> str:
        """Return whose request it is; raise `Unauthorized`."""
        return self.services.gate.owner_of(self.request.headers)

    def _check_body(self) -> None:
        if len(self.request.body) > MAX_REQUEST:
            raise InvalidRequest("body", f"is larger than {MAX_REQUEST} bytes")
        kind = self.request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if self.request.body and kind != "application/json":
            raise InvalidRequest("Content-Type", "must be application/json")

    @property
    def gone(self) -> bool:
        """Whether the client has closed the connection."""
        return self._gone.done()

    def count(self) -> None:
        """Take the request into the tally, once it is answered."""
        tally = self.services.cluster.tally
        tally.answered(type(self).__name__, str(self.request.method), self.get_status())
        if not self._streams:
            tally.request_seconds.observe(self.request.request_time())

    async def push(self) -> None:
        """Send what was written; whoever does not read it is cut off and may come back.

        Raises:
            StreamClosedError: nobody reads.
        """
        try:
            async with asyncio.timeout(STALL_SECONDS):
                await self.flush()
        except TimeoutError:
            logger.info("%s does not read its answer: cut off", self.request.remote_ip)
            self.services.cluster.tally.stalled += 1
            self.cut()
            raise StreamClosedError from None

    def cut(self) -> None:
        """Close the connection in the midst of an answer: the rest of it cannot be had."""
        if self._socket is not None:
            self._socket.close()

    def query(self, kind: type[Q]) -> Q:
        """Return the query's arguments, checked; raise `InvalidRequest`. Unknown ones are let be.

        Of an argument that is given more than once the last counts; an empty one is not given.
        """
        given: dict[str, str] = {}
        for name in kind.__struct_fields__:
            try:
                text = self.get_query_argument(name, "")
            except HTTPError:
                raise InvalidRequest(name, "is not valid UTF-8") from None
            if text:
                given[name] = text
        return decode_query(given, kind)

    async def reply(self, view: msgspec.Struct, status: int = 200) -> None:
        """Answer with JSON."""
        self.set_status(status)
        self.set_header("Content-Type", "application/json")
        await self.finish(msgspec.json.encode(view))

    async def stream(self, source: AsyncGenerator[bytes, None], *, keep_alive: bytes = b"") -> None:
        """Answer with what `source` yields, as it comes, until it ends or the client has gone.

        While nothing comes, `keep_alive` is sent every ten seconds, if it is not empty.
        """
        self._streams = True
        self.services.cluster.tally.streams += 1
        first = asyncio.ensure_future(anext(source))
        pull: asyncio.Future[bytes] | None = first
        try:
            # What is refused at once gets a status of its own; else the headers go out, though
            # the first line may take long.
            await asyncio.wait({first}, timeout=_REFUSAL_SECONDS)
            if not first.done():
                await self.flush()
            while not self.gone:
                pull = pull or asyncio.ensure_future(anext(source))
                waiting: set[asyncio.Future[Any]] = {pull, self._gone}
                await asyncio.wait(
                    waiting, timeout=KEEP_ALIVE_SECONDS, return_when=asyncio.FIRST_COMPLETED
                )
                if pull.done():
                    chunk, pull = pull.result(), None
                else:
                    chunk = keep_alive
                if not chunk:
                    continue
                self.write(chunk)
                await self.push()
        except (StopAsyncIteration, StreamClosedError):
            return
        except HakuRiverError as error:
            if not self._headers_written:
                raise
            logger.warning("A stream was cut: %s", error)
            self.cut()
        finally:
            self.services.cluster.tally.streams -= 1
            if pull is not None:
                pull.cancel()
                with suppress(asyncio.CancelledError, StopAsyncIteration):
                    await pull
            await source.aclose()

    def on_connection_close(self) -> None:
        """End a stream whose client has gone."""
        if not self._gone.done():
            self._gone.set_result(None)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer an error as JSON; what went wrong inside is told to the log alone."""
        error = kwargs.get("exc_info", (None, None, None))[1]
        view = ErrorView(detail=_INTERNAL)
        if isinstance(error, InvalidRequest):
            view = ErrorView(detail=[FieldError(error.field, error.reason)])
        elif isinstance(error, SubmissionRefused):
            view = ErrorView(detail=str(error), failed_targets=list(error.failed_targets))
        elif isinstance(error, HakuRiverError):
            view = refusal_of(self, error)
        elif status_code < 500:  # noqa: PLR2004
            view = ErrorView(detail=self._reason)
        if isinstance(error, HakuRiverError):
            status_code = error.http_status
        self.set_status(status_code)
        if status_code == 405:  # noqa: PLR2004
            self.set_header("Allow", ", ".join(methods_of(type(self))))
        self.set_header("Content-Type", "application/json")
        self.finish(msgspec.json.encode(view))

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        """Log what nobody expected; a refused request is no fault of the host.

        The query is left out: somebody may have put a token there.
        """
        if not isinstance(value, HakuRiverError | HTTPError):
            place = f"{self.request.method} {self.request.path[:200]}"
            logger.error("Uncaught exception in %s", place, exc_info=(typ, value, tb))


class UnknownPath(ApiHandler):
    """Whatever no route matches."""

    def prepare(self) -> None:
        """Answer 404 whatever the method."""
        raise HTTPError(404, reason="no such path; the API lies below /api")
