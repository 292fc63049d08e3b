"""One runner's connection to the keeper. Needs the standard library alone: the keeper loads it."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket

_MAX_LINE = 32 << 20
_MAX_UNSENT = 16 << 20


class Connection:
    """A runner's end of the socket: whole lines in, lines out as fast as it takes them."""

    def __init__(self, peer: socket.socket) -> None:
        self.socket = peer
        self.inbox = bytearray()
        self.outbox = bytearray()

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

    def write(self) -> bool:
        """Send what the socket takes; False when the runner is gone or too slow to keep."""
        try:
            while self.outbox:
                del self.outbox[: self.socket.send(self.outbox)]
        except BlockingIOError:
            return len(self.outbox) < _MAX_UNSENT
        except OSError:
            return False
        return True
