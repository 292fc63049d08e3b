"""What cannot be beaten on this machine at this moment: a process, a request, a file, an fsync."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from benchmarks.rows import median
from hakuriver.client.portal import Portal
from hakuriver.client.transport import Transport

if TYPE_CHECKING:
    from collections.abc import Callable

_PROCESSES = 200
_REQUESTS = 200
_FILES = 60
_FSYNCS = 100
_SERVER = Path(__file__).with_name("skeleton.py")


@dataclass(frozen=True)
class Floors:
    """Medians in milliseconds; `process` is the floor of all ratios."""

    process: float
    request: float
    create: float
    fsync: float


def measure(folder: Path) -> Floors:
    """Measure all; files and fsyncs in `folder`."""
    return Floors(_process(), _request(), _create(folder), _fsync(folder))


def timed(step: Callable[[], object]) -> float:
    """Return how many milliseconds `step` takes."""
    before = time.perf_counter()
    step()
    return (time.perf_counter() - before) * 1000


def _process() -> float:
    return median(
        [timed(lambda: subprocess.run(["/bin/true"], check=True)) for _ in range(_PROCESSES)]
    )


class _Nothing(msgspec.Struct):
    """An empty object."""


def _request() -> float:
    """Return what a request costs that does nothing, through the client's own transport."""
    command = [sys.executable, str(_SERVER)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            port = int(server.stdout.readline())
            return _requests(f"http://127.0.0.1:{port}")
        finally:
            server.stdin.close()
            server.wait(10)


def _requests(url: str) -> float:
    transport, portal = Transport(url, ""), Portal()
    try:
        times = [
            timed(lambda: portal.call(transport.request("POST", "/", _Nothing)))
            for _ in range(_REQUESTS)
        ]
        return median(times)
    finally:
        portal.call(transport.close())
        portal.close()


def _create(folder: Path) -> float:
    """Return what a new empty file costs; every task has at least three."""
    files = [folder / f"floor-{number}" for number in range(_FILES)]
    try:
        return median([timed(file.touch) for file in files])
    finally:
        for file in files:
            file.unlink(missing_ok=True)


def _fsync(folder: Path) -> float:
    """Return what it costs to bring 128 bytes more of a file to disk."""
    path = folder / "fsync"
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)

    def append() -> None:
        os.write(descriptor, b"x" * 128)
        os.fsync(descriptor)

    try:
        return median([timed(append) for _ in range(_FSYNCS)])
    finally:
        os.close(descriptor)
        path.unlink()
