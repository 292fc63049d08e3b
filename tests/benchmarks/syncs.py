"""How many fsyncs a task costs, and in which process; counted by strace where there is one."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.accounts import family
from benchmarks.world import TASK_SECONDS, failures
from support.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.world import World

_SINGLE = 20
_BULK = 200
_CALL = re.compile(r"^(\d+) +f(?:data)?sync\(", re.MULTILINE)


def count(world: World) -> str:
    """Return a line that says how many a task takes alone and in bulk, or why it is not known."""
    if shutil.which("strace") is None:
        return "not counted: strace is not installed"
    world.progress("fsyncs: counting")
    try:
        with _traced(world) as calls:
            for _ in range(_SINGLE):
                world.client.run(["true"]).result(TASK_SECONDS)
        alone = _spell(calls, _SINGLE)
        with _traced(world) as calls:
            failures(world.bulk(_BULK))
    except (PermissionError, AssertionError) as error:
        return f"not counted: {error}"
    return f"{alone} for a task alone; {_spell(calls, _BULK)} in bulk"


@contextmanager
def _traced(world: World) -> Iterator[Counter[str]]:
    """Count calls by process while the block runs; the counter is full after it."""
    output, words = world.folder / "strace", world.folder / "strace.err"
    calls: Counter[str] = Counter()
    command = ["strace", "-f", "-e", "trace=fsync,fdatasync", "-o", str(output)]
    traced = [member for pid in world.pids.values() for member in family(pid)]
    for pid in traced:
        command += ["-p", str(pid)]
    with words.open("wb") as errors, subprocess.Popen(command, stderr=errors) as tracer:
        try:
            wait_until(lambda: _attached(words, tracer, len(traced)), what="strace attached")
            yield calls
            names = {
                int(thread.name): name
                for name, pid in world.pids.items()
                for member in family(pid)
                for thread in Path(f"/proc/{member}/task").iterdir()
            }
        finally:
            tracer.send_signal(signal.SIGINT)
            tracer.wait(10)
    found = _CALL.findall(output.read_text("utf-8", "replace"))
    calls.update(names.get(int(thread), "others") for thread in found)


def _attached(words: Path, tracer: subprocess.Popen[bytes], count: int) -> bool:
    text = words.read_text("utf-8", "replace")
    if tracer.poll() is not None:
        raise PermissionError(text.strip() or f"strace ended with {tracer.returncode}")
    return len(re.findall(r"Process \d+ attached", text)) >= count


def _spell(calls: Counter[str], tasks: int) -> str:
    parts = ", ".join(f"{name} {number / tasks:.2f}" for name, number in sorted(calls.items()))
    return f"{sum(calls.values()) / tasks:.2f} ({parts})"
