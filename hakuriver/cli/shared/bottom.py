"""One line at the bottom of a terminal, with whole lines above it."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Generator

_CLEAR = "\r\x1b[K"
_SECONDS = 1.0


class BottomLine:
    """Keeps a line on stderr if it is `shown` and stderr is a terminal; subclasses say what of.

    The line is drawn at each change and, for the time in it, each second. May be used from
    several threads.
    """

    def __init__(self, *, shown: bool) -> None:
        self._shown = shown and sys.stderr.isatty()
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._clock = threading.Thread(target=self._tick, name="progress", daemon=True)

    def __enter__(self) -> Self:
        if self._shown:
            self._clock.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._shown:
            self._clock.join()
            self._put(_CLEAR)

    @contextmanager
    def aside(self) -> Generator[None]:
        """Let whole lines be printed meanwhile, above this one."""
        with self._lock:
            self._put(_CLEAR)
            yield
            self._put(self._cut_line())

    def line(self) -> str:
        """Return what the line says now."""
        raise NotImplementedError

    def _tick(self) -> None:
        while not self._ended.wait(_SECONDS):
            with self._lock:
                self._put(_CLEAR + self._cut_line())

    def _put(self, text: str) -> None:
        if self._shown:
            sys.stderr.write(text)
            sys.stderr.flush()

    def _cut_line(self) -> str:
        # A line that wraps could not be cleared.
        return self.line()[: shutil.get_terminal_size().columns - 1]
