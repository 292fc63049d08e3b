"""A bare Tornado server that answers ``{}``: what a request costs before anything is done.

Prints its port, and ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import sys

from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port
from tornado.web import Application, RequestHandler


class _Empty(RequestHandler):
    def post(self) -> None:
        self.write({})


async def _serve() -> None:
    server = HTTPServer(Application([("/", _Empty)]))
    socket, port = bind_unused_port()
    server.add_socket(socket)
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)
    server.stop()


if __name__ == "__main__":
    asyncio.run(_serve())
