"""Viewers that go on under their cells while later cells run."""

from __future__ import annotations

import logging
import threading
import weakref
from typing import TYPE_CHECKING

from hakuriver.errors import HakuRiverError

if TYPE_CHECKING:
    from jupyter_ext.magics.viewer import Viewer

_log = logging.getLogger(__name__)

_JOIN = 5.0


class Background:
    """Goes on with a viewer on a thread of its own, to the end of its feed or until `stop`."""

    def __init__(self, viewer: Viewer) -> None:
        self._viewer = viewer
        self._stopped = False
        self._pinned = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hakuriver-detached", daemon=True)
        # At the end of the program too, before the client goes, whose end would be told as a loss.
        self._finalizer = weakref.finalize(self, viewer.feed.leave)

    @property
    def running(self) -> bool:
        """Whether it has not come to its end."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Go on from here; returns once later cells cannot take its output any more."""
        self._thread.start()
        self._pinned.wait()

    def stop(self) -> None:
        """Show no more; the tasks go on. Does nothing after the end."""
        if self._finalizer.detach() is None:
            return
        # Told by the thread, since there it goes under the right cell.
        self._stopped = True
        self._viewer.feed.leave()
        self._thread.join(_JOIN)

    def _run(self) -> None:
        try:
            with self._viewer.place.pinned():
                self._pinned.set()
                self._show()
        except Exception:  # noqa: BLE001 - the top of a thread; the log has the traceback
            _log.exception("a detached cell can no longer be shown")
        finally:
            self._pinned.set()
            self._finalizer.detach()

    def _show(self) -> None:
        self._viewer.watch()
        feed, note = self._viewer.feed, ""
        if self._stopped:
            note = "no longer followed here"
        elif feed.left:
            return
        elif feed.error is not None:
            note = f"no longer followed: {feed.error}"
            if not isinstance(feed.error, HakuRiverError):
                _log.error("a detached cell lost its tasks", exc_info=feed.error)
        self._viewer.end(note=note)
