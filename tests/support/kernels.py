"""A real kernel for a test: what a cell shows, when, and under which cell."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from queue import Empty
from typing import TYPE_CHECKING, Any

from jupyter_client.manager import KernelManager

from support.processes import clean_environment

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_ANSI = re.compile(r"\x1b\[[0-9;]*m")


@dataclass
class Shown:
    """What one cell has shown: its streams, its displays by id as they stand, and its end."""

    streams: list[tuple[str, str]] = field(default_factory=list)
    displays: dict[str, dict[str, str]] = field(default_factory=dict)
    history: list[str] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    arrivals: list[tuple[float, str]] = field(default_factory=list)
    result: dict[str, str] = field(default_factory=dict)
    error: str = ""
    error_name: str = ""
    ok: bool = True
    idle: bool = False

    @property
    def stdout(self) -> str:
        return "".join(text for name, text in self.streams if name == "stdout")

    @property
    def stderr(self) -> str:
        return "".join(text for name, text in self.streams if name == "stderr")

    @property
    def status(self) -> str:
        """The one status line, as it stands."""
        assert len(self.displays) == 1, self.displays
        return next(iter(self.displays.values()))["text/plain"]

    def holds(self, text: str) -> bool:
        """Tell whether `text` is in a stream or was in the status line."""
        return any(text in each for each in (self.stdout, self.stderr, *self.history))

    def take(self, message: dict[str, Any]) -> None:
        """Take a message of the kernel; some come after the cell's end."""
        kind, content = message["msg_type"], message["content"]
        self.kinds.append(kind)
        match kind:
            case "status":
                self.idle = content["execution_state"] == "idle"
            case "stream":
                self.streams.append((content["name"], content["text"]))
                self.arrivals.append((time.time(), content["text"]))
            case "display_data" | "update_display_data":
                identity = content["transient"].get("display_id", f"#{len(self.displays)}")
                assert kind == "display_data" or identity in self.displays
                self.displays[identity] = content["data"]
                self.history.append(content["data"]["text/plain"])
            case "execute_result":
                self.result = content["data"]
            case "error":
                self.error = _ANSI.sub("", "\n".join(content["traceback"]))
                self.error_name = content["ename"]


class Kernel:
    """An IPython kernel of its own, with nothing of the caller's environment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        work = folder / "work"
        work.mkdir(parents=True)
        environment = clean_environment(folder, IPYTHONDIR=str(folder / "ipython"))
        # Sockets in the folder: its path must be short, and no port is open to others.
        self._manager = KernelManager(transport="ipc", ip=str(folder / "k"))
        self._manager.connection_file = str(folder / "kernel.json")
        self._manager.start_kernel(env=environment, cwd=str(work))
        self._client = self._manager.blocking_client()
        self._client.start_channels()
        self._client.wait_for_ready(timeout=60)
        self._cells: dict[str, Shown] = {}

    def start(self, code: str) -> Running:
        """Send a cell; the result tells what it shows, also after its end."""
        request = self._client.execute(code)
        self._cells[request] = Shown()
        return Running(self, request, self._cells[request])

    def run(self, code: str, *, timeout: float = 60, ok: bool | None = True) -> Shown:
        """Run a cell to its end; with `ok`, fail unless it ended like that."""
        shown = self.start(code).finish(timeout=timeout)
        assert ok is None or shown.ok == ok, shown
        return shown

    def interrupt(self) -> None:
        """Do what the stop button does."""
        self._manager.interrupt_kernel()

    def take(self, deadline: float) -> None:
        """Let the cell that the next output message belongs to have it."""
        left = deadline - time.monotonic()
        assert left > 0, "the cell does not get on"
        try:
            message: dict[str, Any] = self._client.get_iopub_msg(timeout=left)
        except Empty:
            raise AssertionError("the kernel says nothing more") from None
        shown = self._cells.get(message["parent_header"].get("msg_id"))
        if shown is not None:
            shown.take(message)

    def reply(self, parent: str, deadline: float) -> dict[str, Any]:
        """Return the reply to the request `parent`."""
        while True:
            left = max(0.1, deadline - time.monotonic())
            message: dict[str, Any] = self._client.get_shell_msg(timeout=left)
            if message["parent_header"].get("msg_id") == parent:
                return message

    def restart(self) -> None:
        """Do what the restart button does: nothing of the old session is left."""
        self._manager.restart_kernel()
        self._client.wait_for_ready(timeout=60)

    def stop(self) -> None:
        """End the kernel and close its channels."""
        self._client.stop_channels()
        self._manager.shutdown_kernel()
        self._manager.cleanup_resources()


@dataclass
class Running:
    """A cell that runs."""

    kernel: Kernel
    request: str
    shown: Shown

    def until(self, text: str, *, timeout: float = 60) -> Shown:
        """Wait until `text` is in a stream or was in the status line of the cell."""
        return self.until_it(lambda shown: shown.holds(text), what=text, timeout=timeout)

    def until_it(
        self, found: Callable[[Shown], bool], *, what: str = "", timeout: float = 60
    ) -> Shown:
        """Wait until `found` says yes to what the cell shows."""
        deadline = time.monotonic() + timeout
        while not found(self.shown):
            try:
                self.kernel.take(deadline)
            except AssertionError as error:
                raise AssertionError(f"{what or found}: not in {self.shown}: {error}") from None
        return self.shown

    def finish(self, *, timeout: float = 60) -> Shown:
        """Wait for the cell's end; what it left in the background may still show more."""
        deadline = time.monotonic() + timeout
        while not self.shown.idle:
            self.kernel.take(deadline)
        reply = self.kernel.reply(self.request, deadline)
        self.shown.ok = reply["content"]["status"] == "ok"
        return self.shown
