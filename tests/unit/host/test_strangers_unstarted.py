"""A connection that gives way before anybody has looked at it is closed all the same."""

from __future__ import annotations

import asyncio
import socket

from tornado.iostream import IOStream
from tornado.web import Application

from hakuriver.host.listening import Server
from hakuriver.host.strangers import Strangers
from hakuriver.host.tally import Tally


def test_one_that_gives_way_before_its_first_step_is_closed() -> None:
    async def crowd() -> None:
        strangers = Strangers(limit=1)
        server = Server(Application([]), context=None, strangers=strangers, tally=Tally())
        pairs = [socket.socketpair() for _ in range(2)]
        streams = [IOStream(ours) for ours, _ in pairs]
        try:
            for stream in streams:
                server.handle_stream(stream, ("127.0.0.1", 1))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert [stream.closed() for stream in streams] == [True, False]
            await server.close_all_connections()
            assert streams[1].closed()
            assert len(strangers) == 0
        finally:
            for stream, (_, theirs) in zip(streams, pairs, strict=True):
                stream.close()
                theirs.close()

    asyncio.run(crowd())
