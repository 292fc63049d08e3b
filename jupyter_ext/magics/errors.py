"""Errors as a notebook shows them: a few lines that say what failed, without our own traceback.

IPython shows the lines of an exception's ``_render_traceback_`` in place of a traceback, and the
cell still counts as failed. The classes made here keep their kind: a `TaskFailed` stays one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from IPython.core.getipython import get_ipython

from hakuriver.errors import HakuRiverError

if TYPE_CHECKING:
    from collections.abc import Sequence

_E = TypeVar("_E", bound=HakuRiverError)

_TRACEBACK = "Traceback (most recent call last):"
_WIDTH = 300
_RED, _PLAIN = "\x1b[31m", "\x1b[0m"


class Brief(Exception):  # noqa: N818 - it says how an error is shown, it is none by itself
    """What makes an exception appear as its message and the lines in `more`."""

    more: tuple[str, ...] = ()

    def _render_traceback_(self) -> list[str]:
        first, *rest = str(self).splitlines() or [""]
        name = type(self).__name__
        head = name if _colourless() else f"{_RED}{name}{_PLAIN}"
        return [f"{head}: {first}", *rest, *self.more]


def _colourless() -> bool:
    # IPython 8 writes it NoColor.
    shell: Any = get_ipython()
    return shell is not None and str(shell.colors).lower() == "nocolor"


class CellInterrupted(Brief, KeyboardInterrupt):
    """The cell was interrupted; the message says what became of its tasks."""


_classes: dict[type[HakuRiverError], type[HakuRiverError]] = {}


def _brief_class(kind: type[HakuRiverError]) -> type[HakuRiverError]:
    if kind not in _classes:
        _classes[kind] = type(kind.__name__, (Brief, kind), {"__module__": kind.__module__})
    return _classes[kind]


def brief(error: _E, more: Sequence[str] = ()) -> _E:
    """Return an error of the same kind and content as `error` that is shown in a few lines.

    `more` are lines to show below its message. An error that was made here stays as it is.
    """
    if isinstance(error, Brief):
        return error
    kind: type[HakuRiverError] = type(error)
    brief_kind = _brief_class(kind)
    # An object is made by its nearest builtin: OSError and MemoryError have ways of their own.
    builtin: Any = brief_kind
    while builtin.__module__ != "builtins":
        builtin = builtin.__base__
    made: _E = builtin.__new__(brief_kind)
    made.args = error.args
    made.__dict__.update(error.__dict__, more=tuple(more))
    return made


def last_lines(text: str, count: int) -> list[str]:
    """Return the lines at the end of `text` that say what went wrong, indented; at most `count`.

    Lines at the margin go before those that continue them, so that of a Python traceback the
    exception itself is left.
    """
    lines = [line for line in text.splitlines() if line.strip() and line != _TRACEBACK]
    telling = [line for line in lines if not line[0].isspace()] or lines
    return [f"  {line[:_WIDTH]}{_PLAIN if chr(27) in line else ''}" for line in telling[-count:]]
