"""Where a cell's output goes: under the cell, also once later cells run and print."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO, cast
from uuid import uuid4

from IPython.core.getipython import get_ipython

if TYPE_CHECKING:
    from collections.abc import Generator

    from hakuriver.model.messages import Stream
    from jupyter_ext.magics.render import Rendered


class Place:
    """The place of the cell that runs when this is made.

    In a kernel it stays under that cell, from a thread within `pinned`, whatever later cells
    print, capture or redirect. In a terminal it is wherever the terminal is by then.
    """

    def __init__(self) -> None:
        self._shell = cast("Any", get_ipython())
        self._kernel = hasattr(self._shell, "get_parent")
        self._parent: Any = self._shell.get_parent() if self._kernel else None
        self._publisher: Any = self._shell.display_pub if self._shell is not None else None
        # A terminal puts another stream in place of these while it shows its prompt.
        self._streams: dict[Stream, TextIO] = (
            {"stdout": sys.stdout, "stderr": sys.stderr} if self._kernel else {}
        )

    @property
    def is_kernel(self) -> bool:
        """Whether what is shown can be replaced in place."""
        return self._kernel

    @contextmanager
    def pinned(self) -> Generator[None]:
        """Let what this thread writes and shows here go under the cell."""
        token: Any = None
        if hasattr(self._shell, "set_thread_parent"):
            token = self._shell.set_thread_parent(self._parent)
        elif self._kernel:
            self._shell.set_parent(self._parent)
        try:
            yield
        finally:
            if token is not None:
                self._shell.reset_thread_parent(token)

    def write(self, stream: Stream, text: str) -> None:
        """Write `text` at once."""
        out = self._streams.get(stream) or (sys.stdout if stream == "stdout" else sys.stderr)
        out.write(text)
        out.flush()

    def line(self) -> Line:
        """Return a line of this place that shows nothing yet."""
        return Line(self._publisher)


class Line:
    """One display that is shown once and then replaced in place; a terminal prints each."""

    def __init__(self, publisher: Any) -> None:
        self._publisher = publisher
        self._identity = uuid4().hex
        self._shown: Rendered | None = None

    def show(self, rendered: Rendered) -> None:
        """Show `rendered` in place of what stood there."""
        if rendered == self._shown:
            return
        update, self._shown = self._shown is not None, rendered
        if self._publisher is None:
            sys.stdout.write(f"{rendered.text}\n")
            return
        self._publisher.publish(
            data=rendered.bundle(),
            metadata={},
            transient={"display_id": self._identity},
            update=update,
        )
