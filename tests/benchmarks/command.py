"""The command: starts a cluster, measures the figures, prints them, and ends all that it started.

Exit code 0 whether aims are met or not; 1 if a count is wrong (a lost line, an orphan, a failed
task) or a figure could not be measured.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import bulk, burst, crowd, floors, growth, idle, kill, line, one, syncs, updown
from benchmarks.rows import Row
from benchmarks.table import as_json, render
from benchmarks.world import Progress, bounded, folder, world
from hakuriver.errors import HakuRiverError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.world import World

# In this order: memory is looked at before it is used, and again in the end.
_FIGURES: dict[str, Callable[[World], list[Row]]] = {
    "idle": idle.measure,
    "one": one.measure,
    "bulk": bulk.measure,
    "line": line.measure,
    "burst": burst.measure,
    "kill": kill.measure,
    "growth": growth.measure,
    "updown": updown.measure,
    "crowd": crowd.measure,
}
_SECONDS = 120.0
_LONG_SECONDS = 300.0
#: Milliseconds for a new file above which the figures tell more of the disk than of us.
_SLOW_CREATE = 0.1
_SLOW_FILES = (
    "NOTE: new files are slow here now, as they are for minutes after many were removed: "
    "wait, or name another folder with --dir"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what `argv` names, everything by default; return the exit code."""
    options = _parser().parse_args(argv)
    # A run in the background of a shell has interrupts ignored; a terminated one ends in order.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        with folder(options.dir) as base:
            return _run(base, options)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("benchmarks", description=__doc__)
    parser.add_argument(
        "--only", action="append", choices=_FIGURES, metavar="NAME", help=", ".join(_FIGURES)
    )
    parser.add_argument("--long", action="store_true", help="10,000 tasks for the growth of memory")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there as well")
    parser.add_argument(
        "--dir",
        type=Path,
        default=Path("/var/tmp"),  # /tmp is often no disk, and an fsync costs nothing there
        help="where the cluster keeps its state meanwhile (default %(default)s)",
    )
    return parser


def _run(base: Path, options: argparse.Namespace) -> int:
    progress = Progress()
    names = [name for name in _FIGURES if name in (options.only or _FIGURES)]
    rows: list[Row] = []
    load = os.getloadavg()[0]
    progress("floors")
    before = floors.measure(base)
    with world(base, long=options.long, progress=progress) as made:
        for name in names:
            rows += _figure(name, made)
        notes = [f"fsyncs: {_syncs(made)}", _machine(load, base)]
    if before.create > _SLOW_CREATE:
        notes.append(_SLOW_FILES)
    progress("floors")
    measured = [before, floors.measure(base)]
    progress()
    sys.stdout.write(render(rows, measured, notes) + "\n")
    if options.json is not None:
        options.json.write_bytes(as_json(rows, measured, notes))
    return 1 if any(row.wrong for row in rows) else 0


def _figure(name: str, made: World) -> list[Row]:
    """Measure one figure; should it fail, the others come all the same."""
    try:
        with bounded(_LONG_SECONDS if made.long else _SECONDS, name):
            return _FIGURES[name](made)
    except (HakuRiverError, TimeoutError, AssertionError, OSError) as error:
        made.progress()
        traceback.print_exc()
        made.cluster.kill_unfinished()
        return [Row(figure=name, value=float("nan"), unit="s", wrong=f"not measured: {error}")]


def _syncs(made: World) -> str:
    try:
        with bounded(_SECONDS, "counting"):
            return syncs.count(made)
    except (HakuRiverError, TimeoutError) as error:
        return f"not counted: {error}"


def _machine(load: float, base: Path) -> str:
    after = os.getloadavg()[0]
    return (
        f"{os.cpu_count()} CPUs, load {load:.1f} before and {after:.1f} after it (our own "
        f"included), state in {base.parent}"
    )
