"""Word from the kernel that files change (inotify), on the event loop, only while it is wanted."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from inotify_simple import INotify, flags  # type: ignore[import-untyped] # it has no stubs

if TYPE_CHECKING:
    from pathlib import Path

_log = logging.getLogger(__name__)

# One mask for files and one for folders: adding a watch again replaces the mask it had.
_FILE = flags.MODIFY | flags.ATTRIB | flags.MOVE_SELF | flags.DELETE_SELF | flags.DONT_FOLLOW
_FOLDER = flags.CREATE | flags.CLOSE_WRITE | flags.MOVED_TO | flags.ONLYDIR


class Watches:
    """Sets events when files or folders change; one inotify descriptor, closed when idle."""

    def __init__(self) -> None:
        self._notify: INotify | None = None
        self._events: dict[int, set[asyncio.Event]] = {}

    @staticmethod
    def prepare() -> None:
        """Load the C library; finding it the first time blocks, so call this in a thread."""
        # Where the user has too many of them, each watch says so for itself.
        with contextlib.suppress(OSError):
            INotify().close()

    def add(self, path: Path, event: asyncio.Event, *, folder: bool = False) -> bool:
        """Set `event` whenever `path` changes; False if the kernel cannot watch it."""
        try:
            notify = self._opened()
            watch = notify.add_watch(path, _FOLDER if folder else _FILE)
        except OSError as error:  # no such file, or the user's limit of watches
            _log.debug("cannot watch %s: %s", path, error)
            self._close_if_idle()
            return False
        self._events.setdefault(watch, set()).add(event)
        return True

    def remove(self, event: asyncio.Event) -> None:
        """Set `event` no more."""
        for watch in [watch for watch, events in self._events.items() if event in events]:
            self._events[watch].discard(event)
            if not self._events[watch]:
                self._drop(watch)
        self._close_if_idle()

    def _opened(self) -> INotify:
        if self._notify is None:
            self._notify = INotify(nonblocking=True)
            asyncio.get_running_loop().add_reader(self._notify.fileno(), self._read)
        return self._notify

    def _read(self) -> None:
        assert self._notify is not None  # noqa: S101 - told to the type checker
        for happened in self._notify.read(timeout=0):
            if happened.mask & flags.Q_OVERFLOW:
                woken = {event for events in self._events.values() for event in events}
            else:
                woken = self._events.get(happened.wd, set())
            for event in woken:
                event.set()
            if happened.mask & flags.IGNORED:  # the kernel has dropped the watch itself
                self._events.pop(happened.wd, None)

    def _drop(self, watch: int) -> None:
        del self._events[watch]
        if self._notify is not None:
            try:
                self._notify.rm_watch(watch)
            except OSError:  # its file is gone, and the watch with it
                return

    def _close_if_idle(self) -> None:
        if self._notify is not None and not self._events:
            asyncio.get_running_loop().remove_reader(self._notify.fileno())
            self._notify.close()
            self._notify = None
