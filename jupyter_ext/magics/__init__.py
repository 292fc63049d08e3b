"""The magics ``hakuriver`` and ``hakurun``, and how they come into a shell and leave it.

``%load_ext hakuriver`` calls `load`, ``%unload_ext hakuriver`` calls `unload`. Both may be called
twice; `unload` leaves the shell exactly as `load` found it and closes the connection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jupyter_ext.magics.magics import HakuRiverMagics

if TYPE_CHECKING:
    from collections.abc import Callable

    from IPython.core.interactiveshell import InteractiveShell

__all__ = ["HakuRiverMagics", "load", "unload"]

_NAMES = ("hakuriver", "hakurun")
_KINDS = ("line", "cell")


class _Registration:
    """What `load` put into one shell, and what stood there before."""

    def __init__(self, shell: InteractiveShell) -> None:
        tables: dict[str, dict[str, Any]] = shell.magics_manager.magics
        self._shell = shell
        self._before: dict[tuple[str, str], Callable[..., Any] | None] = {
            (kind, name): tables[kind].get(name) for kind in _KINDS for name in _NAMES
        }
        self._magics = HakuRiverMagics(shell)
        shell.magics_manager.register(self._magics)

    def undo(self) -> None:
        """Take the magics out again and end their connection."""
        manager = self._shell.magics_manager
        for (kind, name), before in self._before.items():
            if before is None:
                manager.magics[kind].pop(name, None)
            else:
                manager.magics[kind][name] = before
        manager.registry.pop(HakuRiverMagics.__name__, None)
        configurables: list[Any] = self._shell.configurables
        if self._magics in configurables:
            configurables.remove(self._magics)
        self._magics.session.close()


_registrations: dict[int, _Registration] = {}


def load(shell: InteractiveShell) -> None:
    """Make the magics known to `shell`; a second call changes nothing."""
    if id(shell) not in _registrations:
        _registrations[id(shell)] = _Registration(shell)


def unload(shell: InteractiveShell) -> None:
    """Undo what `load` did to `shell`, if it did."""
    registration = _registrations.pop(id(shell), None)
    if registration is not None:
        registration.undo()
