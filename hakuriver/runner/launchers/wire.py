"""One end of a socket of the keeper's. Needs the standard library alone: the keeper loads it."""

from __future__ import annotations

import selectors

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket

_MAX_LINE = 32 << 20
_MAX_UNSENT = 16 << 20


class Connection:
    """A socket to a runner or minder: whole lines in, lines out as fast as it takes them."""

    def __init__(self, peer: socket.socket) -> None:
        self.socket = peer
        self.inbox = bytearray()
        self.outbox = bytearray()
        self._awaited = selectors.EVENT_READ

    def read(self) -> list[bytes] | None:
        """Return the lines that came in; None when the runner is gone."""
        try:
            data = self.socket.recv(1 << 18)
        except BlockingIOError:
            return []
        except OSError:
            return None
        if not data or len(self.inbox) > _MAX_LINE:
            return None
        self.inbox += data
        if b"\n" not in data:
            return []
        *lines, rest = bytes(self.inbox).split(b"\n")
        self.inbox = bytearray(rest)
        return lines

    def flush(self, selector: selectors.BaseSelector, data: object) -> bool:
        """Send what the socket takes and have `selector` tell when it takes the rest.

        False when the other end is gone, or too slow to keep.
        """
        if not self._write():
            return False
        awaited = selectors.EVENT_READ | (selectors.EVENT_WRITE if self.outbox else 0)
        if awaited != self._awaited:
            self._awaited = awaited
            selector.modify(self.socket, awaited, data)
        return True

    def _write(self) -> bool:
        try:
            while self.outbox:
                del self.outbox[: self.socket.send(self.outbox)]
        except BlockingIOError:
            return len(self.outbox) < _MAX_UNSENT
        except OSError:
            return False
        return True
