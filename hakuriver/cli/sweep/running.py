"""Running a sweep for a terminal: what is shown of it, and how it is stopped."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hakuriver.cli.shared.common import tell
from hakuriver.cli.shared.options import read_env
from hakuriver.cli.shared.tables import Table, show
from hakuriver.cli.sweep.arguments import NAME
from hakuriver.cli.sweep.screen import Screen
from hakuriver.errors import HostUnreachable
from hakuriver.sweep.cluster.options import ClusterOptions
from hakuriver.sweep.limits import LimitOptions
from hakuriver.sweep.records import Ended, Output
from hakuriver.sweep.shell import regroup
from hakuriver.sweep.sweep import Sweep

if TYPE_CHECKING:
    import argparse
    from collections.abc import Generator, Mapping
    from types import FrameType

    from hakuriver.cli.sweep.arguments import Arguments

_SHOWN = 100
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def sweep(arguments: Arguments) -> int:
    """Run the sweep, or with ``--dry-run`` show it; return the exit code."""
    made, notes = make(arguments)
    dry = arguments.options.dry_run
    _introduce(made, "would run" if dry else "run")
    for note in notes:
        tell(NAME, note)
    if dry:
        return _show(made)
    return _run(made, arguments)


def default_jobs(environ: Mapping[str, str]) -> int:
    """Return how many run at once: the cores of the task that this is in, else the CPUs."""
    cores = environ.get("HAKURIVER_CORES", "")
    if cores.isdecimal() and int(cores) > 0:
        return int(cores)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1


def make(arguments: Arguments) -> tuple[Sweep, list[str]]:
    """Return the sweep that was asked for, new or resumed, and what is to be said of its words."""
    options = arguments.options
    command, notes = arguments.command[:1], list[str]()
    if command:
        words, notes = regroup(arguments.command[1:], program=[NAME, *arguments.lead, *command])
        command += words
    limits = LimitOptions(
        jobs=(options.jobs or default_jobs(os.environ)) if options.parallel else 1,
        retries=options.retries,
        timeout=options.timeout,
        max_failures=options.max_failures,
        out_dir=options.out_dir,
    )
    if options.resume is not None:
        made = Sweep.resume(
            options.resume or None,
            command=command,
            side_by_side=options.zip,
            journal=options.journal,
            cluster=_cluster(options),
            env=read_env(options, os.environ),
            config=options.config,
            **limits,
        )
    else:
        made = Sweep(
            command,
            side_by_side=options.zip,
            name=options.name,
            journal=options.journal,
            cluster=_cluster(options),
            **limits,
        )
    return made, notes


def _cluster(options: argparse.Namespace) -> ClusterOptions | None:
    if not options.on:
        return None
    return ClusterOptions(
        on=tuple(options.on),
        cores=options.cores,
        memory=options.memory,
        workdir=options.workdir,
        env=read_env(options, os.environ),
        private_network=options.private_network,
        private_pid=options.private_pid,
        python=options.python or sys.executable,
        config=options.config,
    )


def _introduce(made: Sweep, verb: str) -> None:
    count = len(made)
    where = f" on {', '.join(made.cluster.on)}" if made.cluster else ""
    at_once = f", {made.limits.jobs} at once" if made.limits.jobs > 1 else ""
    earlier = f", {made.done} of them done before" if made.resumed else ""
    combinations = "1 combination" if count == 1 else f"{count} combinations"
    tell(
        NAME,
        f"sweep {made.header.shown}: {verb} {made.program}, "
        f"{combinations}{where}{earlier}{at_once}",
    )


def _show(made: Sweep) -> int:
    """Print the first combinations as a table."""
    first = [made[index] for index in range(min(len(made), _SHOWN))]
    rows = [
        (str(one.index + 1), *one.values, shlex.join([made.header.words[0], *one.arguments]))
        for one in first
    ]
    show(Table(("run", *made.plan.names, "command"), tuple(rows), frozenset({0})))
    if len(made) > len(rows):
        print(f"… and {len(made) - len(rows)} more")
    return 0


def _run(made: Sweep, arguments: Arguments) -> int:
    options = arguments.options
    screen = Screen(made, progress=options.progress)
    with _stopping(made) as signals, screen:
        _watch(made, screen)
    if made.leftovers:
        tell(NAME, f"ended {made.leftovers} processes that an earlier run had left")
    screen.summarise()
    if signals or made.stopped:
        _tell_way_back(made, interrupted=bool(signals))
    if signals:
        return 128 + signals[0]
    if made.stopped or screen.failures:
        return _code(made, screen)
    return 0


def _watch(made: Sweep, screen: Screen) -> None:
    """Run the sweep and show what happens."""
    try:
        for event in made.events():
            if isinstance(event, Output):
                screen.write(event)
            elif isinstance(event, Ended):
                screen.ended(event)
    except HostUnreachable:
        # Its patience is at an end, the tasks' is not.
        _tell_way_back(made, interrupted=True)
        raise


def _code(made: Sweep, screen: Screen) -> int:
    """Return 1, or the code of the only combination there is, as a shell tells it."""
    code = screen.last_code if len(made) == 1 else None
    if not code:
        return 1
    return code if code > 0 else 128 - code


@contextmanager
def _stopping(made: Sweep) -> Generator[list[int]]:
    """End the sweep at the first signal, and at once at the second; give those that came."""
    came: list[int] = []

    def stop(number: int, _: FrameType | None) -> None:
        came.append(number)
        if len(came) > 1:
            raise KeyboardInterrupt
        made.cancel()

    before = {number: signal.signal(number, stop) for number in _SIGNALS}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _tell_way_back(made: Sweep, *, interrupted: bool) -> None:
    left = len(made) - made.done
    why = "interrupted" if interrupted else "stopped after too many failures"
    wanted = shlex.quote(made.header.sweep_id if made.is_among_others else str(made.path))
    left_alone = ""
    if made.cluster and interrupted:
        left_alone = f"; tasks that were submitted go on, `{NAME} kill {wanted}` ends them"
    tell(NAME, f"{why}, {left} are to be run: `{NAME} --resume {wanted}`{left_alone}")
