"""A real kernel for a test: what a cell shows, when, and under which cell."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jupyter_client.manager import KernelManager

from support.processes import clean_environment

if TYPE_CHECKING:
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

    def take(self, message: dict[str, Any]) -> bool:
        """Take a message of the kernel; False once it is idle again."""
        kind, content = message["msg_type"], message["content"]
        self.kinds.append(kind)
        match kind:
            case "status":
                return bool(content["execution_state"] != "idle")
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
        return True


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
        self._client.wait_for_ready(timeout=30)

    def start(self, code: str) -> Running:
        """Send a cell; the result tells what it shows."""
        return Running(self, self._client.execute(code), Shown())

    def run(self, code: str, *, timeout: float = 30, ok: bool | None = True) -> Shown:
        """Run a cell to its end; with `ok`, fail unless it ended like that."""
        shown = self.start(code).finish(timeout=timeout)
        assert ok is None or shown.ok == ok, shown
        return shown

    def interrupt(self) -> None:
        """Do what the stop button does."""
        self._manager.interrupt_kernel()

    def message(self, parent: str, deadline: float) -> dict[str, Any]:
        """Return the next output message of the cell whose request was `parent`."""
        while True:
            left = deadline - time.monotonic()
            assert left > 0, "the cell does not get on"
            message: dict[str, Any] = self._client.get_iopub_msg(timeout=left)
            if message["parent_header"].get("msg_id") == parent:
                return message

    def reply(self, parent: str, deadline: float) -> dict[str, Any]:
        """Return the reply to the request `parent`."""
        while True:
            left = max(0.1, deadline - time.monotonic())
            message: dict[str, Any] = self._client.get_shell_msg(timeout=left)
            if message["parent_header"].get("msg_id") == parent:
                return message

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

    def until(self, text: str, *, timeout: float = 20) -> Shown:
        """Wait until `text` is in a stream, the status line or the error of the cell."""
        deadline = time.monotonic() + timeout
        while True:
            shown = self.shown
            if any(text in each for each in (shown.stdout, shown.stderr, *shown.history)):
                return shown
            assert shown.take(self.kernel.message(self.request, deadline)), (text, shown)

    def finish(self, *, timeout: float = 30) -> Shown:
        """Wait for the cell's end."""
        deadline = time.monotonic() + timeout
        while self.shown.take(self.kernel.message(self.request, deadline)):
            pass
        reply = self.kernel.reply(self.request, deadline)
        self.shown.ok = reply["content"]["status"] == "ok"
        return self.shown
