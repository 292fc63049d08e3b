"""Reading and following logs through the link of the node that has them."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Self

import msgspec

from hakuriver.errors import Conflict
from hakuriver.model.messages import (
    LogChunk,
    LogClose,
    LogCredit,
    LogEnd,
    LogOpened,
    LogReset,
)

if TYPE_CHECKING:
    from hakuriver.host.nodes import Link
    from hakuriver.host.tally import Tally
    from hakuriver.model.messages import LogOpen

LogMessage = LogOpened | LogChunk | LogReset | LogEnd

# A runner answers in milliseconds; after this it is taken for gone.
_ANSWER_SECONDS = 20.0


class LinkBroken(Exception):  # noqa: N818 - it ends a wait, it is no fault
    """The link over which a log came has broken; it can be opened anew when it is back."""


class Subscription:
    """One log that comes over a link. Use as a context manager: leaving it ends the sending."""

    def __init__(self, owner: Subscriptions, link: Link, number: int) -> None:
        self._owner = owner
        self._link = link
        self._number = number
        self._queue: asyncio.Queue[LogMessage | None] = asyncio.Queue()
        self._position = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._owner.forget(self._link, self._number)
        self._link.send(LogClose(subscription=self._number))

    async def opened(self) -> LogOpened:
        """Return the log's size and where it will be read from; raise `LinkBroken`."""
        try:
            message = await asyncio.wait_for(self._queue.get(), _ANSWER_SECONDS)
        except TimeoutError:
            raise LinkBroken from None
        if not isinstance(message, LogOpened):
            raise LinkBroken
        if message.error is not None:
            raise Conflict(f"the log cannot be read on its node: {message.error}")
        self._position = message.offset
        return message

    async def next(self) -> LogChunk | LogReset | LogEnd:
        """Return what comes next; raise `LinkBroken`. `consumed` lets the sender go on.

        What has come before is passed over; where something is missing, the link counts as broken.
        """
        while True:
            message = await self._queue.get()
            if message is None:
                raise LinkBroken
            if isinstance(message, LogOpened) or self._is_known(message):
                continue
            if isinstance(message, LogChunk):
                if message.offset != self._position:
                    raise LinkBroken
                self._position += len(message.data)
            elif isinstance(message, LogReset):
                self._position = 0
            return message

    def _is_known(self, message: LogMessage) -> bool:
        return isinstance(message, LogChunk) and message.offset < self._position

    def consumed(self, size: int) -> None:
        """Grant the sender `size` more bytes: so many have gone on to the client."""
        self._link.send(LogCredit(subscription=self._number, size=size))

    def put(self, message: LogMessage | None) -> None:
        """Take in what the link brings; None when it broke."""
        self._queue.put_nowait(message)


class Subscriptions:
    """All logs that come over links at present."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._open: dict[tuple[Link, int], Subscription] = {}
        self._numbers = itertools.count(1)

    def subscribe(self, link: Link, request: LogOpen) -> Subscription:
        """Ask a runner for a log; the number in `request` is replaced by a fresh one."""
        number = next(self._numbers)
        subscription = Subscription(self, link, number)
        self._open[link, number] = subscription
        link.send(msgspec.structs.replace(request, subscription=number))
        return subscription

    def deliver(self, link: Link, message: LogMessage) -> None:
        """Hand on what a link brings; what nobody reads any more is dropped."""
        if isinstance(message, LogChunk):
            self._tally.log_bytes += len(message.data)
        subscription = self._open.get((link, message.subscription))
        if subscription is not None:
            subscription.put(message)

    def drop(self, link: Link) -> None:
        """Tell all who read over a link that it broke."""
        for (other, _), subscription in list(self._open.items()):
            if other is link:
                subscription.put(None)

    def forget(self, link: Link, number: int) -> None:
        """Deliver no more to a subscription."""
        self._open.pop((link, number), None)
