"""Executes a notebook and prints what each of its cells prints, as it comes.

Usage: python notebooks/execute.py notebooks/quickstart.ipynb --output-dir build/demo

The run has state, runtime and configuration folders of its own, so that it meets neither the
user's embedded cluster nor their settings, and whatever happens its own cluster is down at the
end. The executed notebook and its HTML are written to the output folder. Exit code 0 if every
cell did what it should; else 1, with one line on stderr that says why.
"""

from __future__ import annotations

import time

_STARTED = time.time()

import argparse
import os
import re
import shutil
import signal
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbclient.util import run_sync
from nbconvert import HTMLExporter
from traitlets.config import Config

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from nbformat import NotebookNode

# A script from nowhere: the page loads nothing from elsewhere when it is opened.
_NO_SCRIPT = "data:text/javascript,"
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_HEAD_LINES = 4
_CELL_SECONDS = 300


class PrintingClient(NotebookClient):
    """Executes a notebook and prints each cell's head and its output while it runs."""

    def __init__(self, notebook: NotebookNode, *, since: float, **options: Any) -> None:
        super().__init__(notebook, **options)
        self.first_output: float | None = None
        self._since = since
        self._number = 0
        self._total = sum(cell.cell_type == "code" for cell in notebook.cells)
        self._current = -1
        self._at_line_start = True

    def announce(self, cell: NotebookNode, cell_index: int) -> None:
        """Print which cell comes now and how it begins."""
        self._current = cell_index
        self._number += 1
        lines = cell.source.splitlines()
        if len(lines) > _HEAD_LINES + 1:
            lines = [*lines[:_HEAD_LINES], f"… {len(lines) - _HEAD_LINES} more lines"]
        self._end_line()
        head, *rest = lines or [""]
        _say(f"\n[{self._number}/{self._total}] {head}\n")
        for line in rest:
            _say(f"      {line}\n")

    def process_message(
        self, msg: dict[str, Any], cell: NotebookNode, cell_index: int
    ) -> NotebookNode | None:
        """Print what the message brings, then do what the client does with it."""
        content = msg["content"]
        match msg["msg_type"]:
            case "execute_input" if cell_index != self._current:
                self.announce(cell, cell_index)
            case "stream":
                self._print(content["text"])
            case "display_data" | "update_display_data" | "execute_result":
                self._print_display(content["data"])
            case "error":
                self._end_line()
                self._print("\n".join(content["traceback"]) + "\n")
        return super().process_message(msg, cell, cell_index)

    async def _async_cleanup_kernel(self) -> None:
        """End the kernel, which a signal may have done already."""
        if self.km is not None:
            await super()._async_cleanup_kernel()

    _cleanup_kernel = run_sync(_async_cleanup_kernel)

    def _print_display(self, data: dict[str, Any]) -> None:
        self._end_line()
        if any(kind.startswith("image/") for kind in data):
            self._print("[figure]\n")
        elif "text/plain" in data:
            self._print(data["text/plain"] + "\n")

    def _print(self, text: str) -> None:
        if not text:
            return
        if self.first_output is None:
            self.first_output = time.time() - self._since
        self._at_line_start = text.endswith("\n")
        _say(text if sys.stdout.isatty() else _ANSI.sub("", text))

    def _end_line(self) -> None:
        if not self._at_line_start:
            _say("\n")
            self._at_line_start = True


def main(argv: Sequence[str] | None = None) -> int:
    """Execute the notebook that the arguments name; return the exit code."""
    parser = argparse.ArgumentParser(description="Execute a notebook and print as it runs.")
    parser.add_argument("notebook", type=Path)
    parser.add_argument("--output-dir", type=Path, default=Path("build/demo"))
    parser.add_argument(
        "--since",
        type=float,
        default=_STARTED,
        metavar="SECONDS",
        help="the Unix time from which the first output is counted (default: its own start)",
    )
    options = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        notebook = nbformat.read(options.notebook, as_version=4)
    except (OSError, nbformat.reader.NotJSONError, nbformat.ValidationError) as error:
        return _fail(f"{options.notebook}: cannot be read: {error}")
    started = time.monotonic()
    with private_folders() as base:
        client = make_client(notebook, options.notebook.resolve().parent, base, options.since)
        try:
            client.execute()
            reason = None
        except CellExecutionError as error:
            reason = f"a cell failed: {error.ename}: {_ANSI.sub('', error.evalue)}"
        except DeadKernelError:
            reason = "the kernel ended before the notebook did: interrupted, or it died"
        except (CellTimeoutError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
        except KeyboardInterrupt:
            reason = "interrupted"
    files = write(notebook, options.output_dir, options.notebook.stem)
    if client.first_output is not None:
        _say(f"\nfirst output after {client.first_output:.1f} s")
    _say(f"\nran in {time.monotonic() - started:.1f} s; look at\n")
    for file in files:
        _say(f"  {file}\n")
    return 0 if reason is None else _fail(reason)


def make_client(notebook: NotebookNode, folder: Path, base: str, since: float) -> PrintingClient:
    """Return what executes the notebook, with its kernel in `folder` and sockets in `base`."""
    config = Config()
    # Files that nobody else can open, in place of ports.
    config.KernelManager.transport = "ipc"
    config.KernelManager.ip = os.path.join(base, "kernel")
    return PrintingClient(
        notebook,
        since=since,
        config=config,
        timeout=_CELL_SECONDS,
        resources={"metadata": {"path": str(folder)}},
        shutdown_kernel="graceful",
    )


@contextmanager
def private_folders() -> Iterator[str]:
    """Give this process and its children folders of their own; no cluster is left in them.

    The folders lie directly under /tmp: the path of a Unix socket has 107 bytes at most.
    """
    base = tempfile.mkdtemp(prefix="hakuriver-", dir="/tmp")
    for name in [name for name in os.environ if name.startswith("HAKURIVER_")]:
        del os.environ[name]
    os.environ.pop("MPLBACKEND", None)
    for variable, folder in (
        ("XDG_STATE_HOME", "state"),
        ("XDG_RUNTIME_DIR", "run"),
        ("JUPYTER_RUNTIME_DIR", "jupyter"),
        ("IPYTHONDIR", "ipython"),
    ):
        os.environ[variable] = os.path.join(base, folder)
        os.mkdir(os.environ[variable], 0o700)
    try:
        yield base
    finally:
        from hakuriver import embedded

        embedded.down()
        shutil.rmtree(base, ignore_errors=True)


def write(notebook: NotebookNode, folder: Path, name: str) -> list[Path]:
    """Write the executed notebook and its HTML; return where they lie."""
    folder.mkdir(parents=True, exist_ok=True)
    executed = folder / f"{name}.ipynb"
    nbformat.write(notebook, executed)
    exporter = HTMLExporter(
        require_js_url=_NO_SCRIPT, mathjax_url=_NO_SCRIPT, jquery_url=_NO_SCRIPT
    )
    page, _ = exporter.from_notebook_node(
        notebook, resources={"metadata": {"name": f"HakuRiver: {name}"}}
    )
    html = folder / f"{name}.html"
    html.write_text(page, "utf-8")
    return [executed, html]


def _say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _fail(reason: str) -> int:
    sys.stderr.write(f"execute.py: {reason}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
