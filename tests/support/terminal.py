"""A command on a terminal of its own: what it has shown so far, and keys typed at it."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.harness import Cluster


class Terminal:
    """The master's end of a terminal with one client on it."""

    def __init__(self, master: int, process: subprocess.Popen[bytes]) -> None:
        self._master = master
        self.process = process
        self.shown = ""

    def read_until(
        self, found: Callable[[str], object], *, timeout: float = 60, what: str = ""
    ) -> str:
        """Read on until `found` says yes to all that was shown, and return that."""
        deadline = time.monotonic() + timeout
        while not found(self.shown):
            left = deadline - time.monotonic()
            assert left > 0, f"not within {timeout} s: {what or found}; shown: {self.shown!r}"
            assert self._read(left), f"the client ended; shown: {self.shown!r}"
        return self.shown

    def read_to_end(self, *, timeout: float = 60) -> str:
        """Read until the client has ended; return all that it has shown."""
        deadline = time.monotonic() + timeout
        while self._read(max(0.0, deadline - time.monotonic())):
            assert time.monotonic() < deadline, f"did not end; shown: {self.shown!r}"
        self.process.wait(timeout)
        return self.shown

    def press(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def _read(self, timeout: float) -> bool:
        """Read what there is within `timeout`; False once nobody writes any more."""
        if not select.select([self._master], [], [], timeout)[0]:
            return True
        try:
            block = os.read(self._master, 65536)
        except OSError:  # what Linux says when the last writer has left a terminal
            return False
        self.shown += block.decode("utf-8", "replace").replace("\r\n", "\n")
        return bool(block)


@contextmanager
def client_on_terminal(
    cluster: Cluster, *args: str, columns: int = 120, rows: int = 40, **variables: str
) -> Iterator[Terminal]:
    """Run the client on a terminal; it is ended with the block, if it has not ended by then."""
    master, slave = pty.openpty()
    try:
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        process = subprocess.Popen(
            [sys.executable, "-m", "hakuriver", "client", "-c", str(cluster.config), *args],
            env={**cluster.env, "TERM": "xterm", **variables},
            cwd=cluster.root,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=_take_terminal,  # noqa: PLW1509 - no threads run here; Ctrl-C needs it
        )
        os.close(slave)
        try:
            yield Terminal(master, process)
        finally:
            process.kill()
            process.wait()
    finally:
        os.close(master)


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
