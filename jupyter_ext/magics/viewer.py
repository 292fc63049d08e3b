"""What a feed brings, shown: output, with the status line above it.

The same in the foreground and behind later cells: the thread that calls `watch` is another one.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from hakuriver.client.follow import LinePrefixer, Output, labels
from jupyter_ext.magics.errors import last_lines
from jupyter_ext.magics.feed import tasks_of
from jupyter_ext.magics.place import Place
from jupyter_ext.magics.screen import Screen
from jupyter_ext.magics.status import Status

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hakuriver.client.futures import Task
    from hakuriver.model.messages import Stream
    from jupyter_ext.magics.feed import Event, Feed

# Characters of each task's output that are kept for the error.
_TAIL = 4 << 10
# Where the last words of a failure are looked for, best first.
_STREAMS: tuple[Stream, ...] = ("stderr", "stdout")


class Viewer:
    """Shows what `feed` brings in the place of the cell that runs when this is made.

    Args:
        hint: says where all of the output can be read, until there is a future that tells.
    """

    def __init__(self, feed: Feed[Any], *, hint: str = "") -> None:
        self.feed = feed
        self.place = Place()
        self.status = Status(self.place.line())
        self._screen = Screen(self.place.write, hint=hint)
        self._labels: dict[str, str] = {}
        self._prefixers: dict[Stream, LinePrefixer] = {}
        self._tails: dict[tuple[str, Stream], str] = {}

    def begin(self, future: Task | Sequence[Task], word: str) -> None:
        """Show the status line; a second call changes nothing."""
        self.status.begin(future, word)
        tasks = tasks_of(future)
        name = tasks[0].task_id if len(tasks) == 1 else "ID"
        self._screen.hint = f" (the whole log: %hakuriver logs {name})"
        if len(tasks) > 1 and not self._labels:
            self._labels = labels(tasks)
            self._prefixers = {stream: LinePrefixer() for stream in _STREAMS}

    def watch(self, *, deadline: float | None = None) -> bool:
        """Show what comes until the feed is over; False if the deadline came first."""
        while not self.feed.over:
            event = self.feed.take(self._pause(deadline))
            if event is not None:
                self._take(event)
            elif deadline is not None and time.monotonic() > deadline:
                return False
            self.status.silence(self.feed.silent_host)
            self._screen.show()
            self.status.show()
        return True

    def end(self, *, note: str = "") -> None:
        """Show all that still waits, then the last word of the status line."""
        for stream, prefixer in self._prefixers.items():
            self._screen.add(stream, prefixer.flush())
        self._screen.finish()
        self._screen.drain()
        self.status.end(note=note)

    def last_words(self, task_id: str) -> list[str]:
        """Return the last lines that the task wrote, as far as shown, and where to read all."""
        for stream in _STREAMS:
            text = self._tails.get((task_id, stream), "")
            lines = last_lines(text, 10 if self._screen.skipped else 3)
            if lines:
                option = " --stderr" if stream == "stderr" else ""
                return [*lines, f"the whole log: %hakuriver logs {task_id}{option}"]
        return []

    def _pause(self, deadline: float | None) -> float | None:
        """Return the seconds until something is to be done even if nothing comes."""
        pauses = [self._screen.wait(), self.status.wait(), None if deadline is None else 0.25]
        return min((pause for pause in pauses if pause is not None), default=None)

    def _take(self, event: Event) -> None:
        if isinstance(event, Output):
            self._take_output(event.task.task_id, event.stream, event.text)
        else:
            self.status.change(event.view)

    def _take_output(self, task_id: str, stream: Stream, text: str) -> None:
        self._tails[task_id, stream] = (self._tails.get((task_id, stream), "") + text)[-_TAIL:]
        if self._labels:
            text = self._prefixers[stream].add(self._labels[task_id], text)
        self._screen.add(stream, text)
