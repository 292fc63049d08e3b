"""``--watch``: what the other queries show, kept live by the host's pushed events.

On a terminal it is redrawn in place; elsewhere, and with ``--json``, each change is a line.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import msgspec

from hakuriver.cli.shared.common import silence_of, tell
from hakuriver.cli.shared.tables import printable
from hakuriver.cli.tasks.arguments import NAME
from hakuriver.cli.tasks.screen import Screen
from hakuriver.cli.tasks.subjects import Subject, key_of, line_of
from hakuriver.client.aio import AsyncClient
from hakuriver.client.backoff import PASSING, Backoff
from hakuriver.errors import HostUnreachable
from hakuriver.model.views import Event

if TYPE_CHECKING:
    import argparse

    from hakuriver.cli.tasks.subjects import Item
    from hakuriver.errors import HakuRiverError

#: Seconds between two redraws, at least.
_PAUSE = 0.2
#: What is measured is no event, so it is asked for every so many seconds.
_REFRESH = 2.0

#: Takes an event, or None where the present state is to be asked for; True ends the watch.
_React = Callable[[Event | None], Awaitable[bool]]
#: Takes what broke the stream, or None when it is back.
_Trouble = Callable[["HakuRiverError | None"], None]


def watch(action: str, options: argparse.Namespace) -> int:
    """Show `action` live until an interrupt or, for one task, its end; return 0."""
    try:
        asyncio.run(_watch(Subject(action, options), options))
    except KeyboardInterrupt:
        return 0
    return 0


async def _watch(subject: Subject, options: argparse.Namespace) -> None:
    async with AsyncClient(config=options.config) as client:
        # Whoever mistyped an id or a name is told as by the query itself.
        await subject.tables(client)
        if sys.stdout.isatty() and os.environ.get("TERM") != "dumb" and not options.json:
            with Screen() as screen:
                await _Drawing(client, subject, screen).run()
        else:
            await _Lines(client, subject, as_json=options.json).run()


class _Lines:
    """Prints what there is, and then each change, as a line."""

    def __init__(self, client: AsyncClient, subject: Subject, *, as_json: bool) -> None:
        self._client = client
        self._subject = subject
        self._as_json = as_json
        self._told: dict[str, Item] = {}
        self._troubled = False

    async def run(self) -> None:
        """Print until it is over."""
        if self._subject.measured:
            await self._ask_again_and_again()
        else:
            await _follow(self._client, self._react, self._trouble)

    async def _ask_again_and_again(self) -> None:
        backoff = Backoff(self._client.watcher.patience)
        while True:
            try:
                await self._react(None)
            except PASSING as error:
                self._trouble(error)
                await backoff.wait(error)
            else:
                self._trouble(None)
                backoff.succeeded()
                await asyncio.sleep(_REFRESH)

    async def _react(self, event: Event | None) -> bool:
        if event is None:
            items = await self._subject.present(self._client)
        else:
            items = [event] if await self._subject.concerns(self._client, event) else []
        return any(self._tell(item) for item in items)

    def _tell(self, item: Item) -> bool:
        """Print `item` unless it is known; return whether it is the last."""
        before = self._told.get(key_of(item))
        if isinstance(item, Event) and isinstance(before, Event):
            known = item.rev <= before.rev
        else:
            known = item == before
        if not known:
            self._told[key_of(item)] = item
            if self._as_json:
                document = item if isinstance(item, Event) else {"health": item}
                line = msgspec.json.encode(document).decode()
            else:
                line = printable(line_of(item))
            print(line, flush=True)
        return self._subject.ends_with(item)

    def _trouble(self, error: HakuRiverError | None) -> None:
        if error is not None and not self._troubled:
            tell(NAME, silence_of(self._client.address))
        self._troubled = error is not None


class _Drawing:
    """Redraws tables on a terminal when something has changed, and for what is measured."""

    def __init__(self, client: AsyncClient, subject: Subject, screen: Screen) -> None:
        self._client = client
        self._subject = subject
        self._screen = screen
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Draw until what is shown is final."""
        reading = asyncio.create_task(_follow(self._client, self._react, self._trouble))
        try:
            while not await self._draw():
                await self._wait(reading)
                await asyncio.sleep(_PAUSE)
        finally:
            reading.cancel()
            await asyncio.wait({reading})

    async def _wait(self, reading: asyncio.Task[None]) -> None:
        """Return on a change, or after a while; raise what ended the reading."""
        change = asyncio.create_task(self._changed.wait())
        await asyncio.wait({reading, change}, timeout=_REFRESH, return_when=asyncio.FIRST_COMPLETED)
        change.cancel()
        if reading.done():
            reading.result()

    async def _draw(self) -> bool:
        """Draw what there is now; return whether it is final."""
        self._changed.clear()
        try:
            tables, final = await self._subject.tables(self._client)
        except PASSING:
            # The reading of events knows it as well, and for how long to be patient.
            return False
        self._screen.draw(tables)
        return final

    async def _react(self, event: Event | None) -> bool:
        if event is None or await self._subject.concerns(self._client, event):
            self._changed.set()
        return False

    def _trouble(self, error: HakuRiverError | None) -> None:
        self._screen.note("" if error is None else silence_of(self._client.address))


async def _follow(client: AsyncClient, react: _React, trouble: _Trouble) -> None:
    """Hand on every change from now on, over broken links, until `react` says that it is over."""
    rev: int | None = None
    backoff = Backoff(client.watcher.patience)
    while True:
        try:
            async with client.cluster.events(rev) as events:
                opening = True
                async for event in events:
                    if opening and rev is not None:
                        trouble(None)
                    afresh = event.reset or rev is None or event.rev < rev
                    rev, opening = event.rev, False
                    backoff.succeeded()
                    if afresh:
                        over = await react(None)
                    elif event.task or event.node or event.forgotten:
                        over = await react(event)
                    else:
                        over = False
                    if over:
                        return
            raise HostUnreachable(f"the host at {client.address} went away")
        except PASSING as error:
            if rev is None:
                raise
            trouble(error)
            await backoff.wait(error)
