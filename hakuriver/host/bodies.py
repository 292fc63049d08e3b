"""Bodies that are far too large are refused before any handler, with the words of all refusals.

Tornado's own bound answers a bare 400 and cuts the connection, which may tear the answer away.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

import msgspec
from tornado.httputil import (
    HTTPHeaders,
    HTTPMessageDelegate,
    RequestStartLine,
    ResponseStartLine,
)

from hakuriver.model.submission import MAX_REQUEST
from hakuriver.model.views import ErrorView

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from tornado.http1connection import HTTP1Connection

    from hakuriver.host.tally import Tally

#: Handlers refuse what is over `MAX_REQUEST`; of more than this they never hear.
MAX_BODY = 2 * MAX_REQUEST
# So long a body that was refused may go on, in seconds: many read the answer only after it.
_DRAIN_SECONDS = 10.0
_DETAIL = f"the body is larger than {MAX_BODY} bytes; a request takes at most {MAX_REQUEST}"


class BoundedBody(HTTPMessageDelegate):
    """Hands one request on to `inner`, unless its body is, or is said to be, over `MAX_BODY`.

    That is answered 413 at once and counted in `tally`; what still comes of the body is dropped,
    and then the connection is closed.
    """

    def __init__(
        self, inner: HTTPMessageDelegate, connection: HTTP1Connection, tally: Tally
    ) -> None:
        self._inner = inner
        self._connection = connection
        self._tally = tally
        self._size = 0
        self._method = ""
        #: Done once the refusal is on its way, None while nothing is refused.
        self._refused: asyncio.Future[None] | None = None
        self._until = 0.0

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        """Refuse what announces too much, before it is sent."""
        # The bound is kept here, so that Tornado's does not come before it.
        self._connection.set_max_body_size(sys.maxsize)
        self._method = start_line.method if isinstance(start_line, RequestStartLine) else ""
        if _announced(headers) <= MAX_BODY:
            return self._inner.headers_received(start_line, headers)
        self._refuse()
        if "Expect" in headers:
            # Nothing comes before it is asked for, and nothing is asked for after an end.
            self._connection.finish()
        return None

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        """Count what comes: chunks announce nothing."""
        if self._refused is None:
            self._size += len(chunk)
            if self._size <= MAX_BODY:
                return self._inner.data_received(chunk)
            self._refuse()
        elif asyncio.get_running_loop().time() > self._until:
            self._close()
        return None

    def finish(self) -> None:
        """Let the request be answered, if that was not done."""
        if self._refused is None:
            self._inner.finish()
        else:
            self._close()

    def on_connection_close(self) -> None:
        """Tell that the connection broke while the request came."""
        if self._refused is None:
            self._inner.on_connection_close()

    def _refuse(self) -> None:
        # It lets go of what it has of the body.
        self._inner.on_connection_close()
        body = msgspec.json.encode(ErrorView(detail=_DETAIL))
        headers = HTTPHeaders(
            {
                "Content-Type": "application/json",
                "Content-Length": str(len(body)),
                "Connection": "close",
            }
        )
        line = ResponseStartLine("HTTP/1.1", 413, "Content Too Large")
        if self._method == "HEAD":
            body = b""
        self._refused = self._connection.write_headers(line, headers, body)
        self._until = asyncio.get_running_loop().time() + _DRAIN_SECONDS
        self._tally.answered(type(self).__name__, self._method, 413)

    def _close(self) -> None:
        if self._refused is not None:
            self._refused.add_done_callback(lambda _: self._connection.close())


def _announced(headers: HTTPHeaders) -> int:
    """Return the bytes that the headers announce; what is no number is refused by Tornado."""
    try:
        return int(headers.get("Content-Length", "0"))
    except ValueError:
        return 0
