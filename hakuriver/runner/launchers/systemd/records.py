"""How a unit ended: the line that its exit record is, and what a launcher makes of it. Pure.

The line is ``RESULT CODE STATUS CPU PEAK TIME MEMORY SYSTEM``: systemd's ``$SERVICE_RESULT``,
``$EXIT_CODE`` and ``$EXIT_STATUS`` (systemd.exec(5)), used CPU time in microseconds, peak memory
in bytes, the task's own limits in seconds and bytes, and the state of the whole machine; ``-``
for what is not known.
"""

from __future__ import annotations

import math
import signal
from typing import Annotated

import msgspec

from hakuriver.runner.exits import Cause, ExitRecord
from hakuriver.runner.launchers.systemd.inside import EXIT_FAULT

_FIELDS = 8
_MAX_REASON = 500
#: Seconds that a unit may take to come from its start to that of its program.
_START = 5.0
#: Seconds by which two of systemd's own times may differ from what it counted.
_CLOCKS = 0.5
_Code = Annotated[int, msgspec.Meta(ge=0, le=255)]
#: States of a machine that is going down (systemctl(1), is-system-running).
_GOING_DOWN = ("stopping", "offline")


class Word(msgspec.Struct, frozen=True, kw_only=True):
    """What the first program of a unit left in the task's order file.

    It counts if the unit ended with `code`: a `fault` in place of a start, with the `exit_code`
    that goes with it, or the `signal` that ended a program in process ids of its own.
    """

    # Of the task's user, who may have written it: nothing here may be more than it can be.
    code: _Code
    fault: str | None = None
    exit_code: _Code | None = None
    signal: Annotated[int, msgspec.Meta(ge=1, le=64)] | None = None
    started_at: float | None = None


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of a record's line."""

    result: str
    code: int | None
    cpu_seconds: float | None
    peak_memory_bytes: int | None
    time_limit: float | None
    memory_limit: int | None
    system: str


def parse(line: str, *, settled: bool = False) -> Told | None:
    """Return what a record's line tells, None for one that is not whole.

    Of a unit that is `settled`, nobody will write the last word any more if it is missing.
    """
    fields = line.split()
    if settled and len(fields) == _FIELDS - 1:
        fields, line = [*fields, "-"], "\n"
    if len(fields) < _FIELDS or not line.endswith("\n"):
        return None
    result, code, status, cpu, peak, time, memory, system = fields[:_FIELDS]
    microseconds = _number(cpu)
    return Told(
        result=result,
        code=exit_code(code, status),
        cpu_seconds=None if microseconds is None else microseconds / 1e6,
        peak_memory_bytes=_number(peak),
        time_limit=_fraction(time),
        memory_limit=_number(memory),
        system=system,
    )


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() else None


def _fraction(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def exit_code(code: str, status: str) -> int | None:
    """Return an exit code of ours: -N for signal N, None where there is none."""
    if code == "exited":
        return _number(status)
    number = _signal(status) if code in ("killed", "dumped") else None
    return None if number is None else -number


def _signal(name: str) -> int | None:
    """Return the number of a signal as systemd writes it: ``KILL``, ``9`` or ``RTMIN+3``."""
    base, _, offset = name.partition("+")
    if f"SIG{base}" in signal.Signals.__members__:
        return signal.Signals[f"SIG{base}"] + (_number(offset) or 0)
    return _number(name)


def to_record(
    told: Told,
    *,
    word: Word | None,
    started_at: float | None,
    completed_at: float,
    killed: bool,
    unread: bool = False,
    ran: float | None = None,
) -> ExitRecord:
    """Return the exit record of a task.

    Args:
        told: what systemd noted.
        word: what the unit's first program left, None if it left nothing.
        started_at: when the program was started, None if it was not.
        completed_at: when the record was written.
        killed: whether the task's end had been asked for before.
        unread: whether the order still lies there as it was given.
        ran: how long the main process ran by systemd's clock, in seconds, if it is known.
    """
    code, reason = told.code, None
    if code is None:
        reason = f"systemd could not run it ({told.result})"
    elif word is not None and word.code == code:
        started_at = word.started_at
        code = word.exit_code if word.signal is None else -word.signal
        reason = None if word.fault is None else word.fault[:_MAX_REASON]
    elif code == EXIT_FAULT and started_at is None:
        code, reason = None, "start interrupted"
    elif unread:
        # The code is not its program's.
        code, reason = None, f"could not be started (exit code {code})"
    if started_at is not None and not 0 <= started_at <= completed_at:
        started_at = None
    if ran is None:
        # systemd's clock began before the program did.
        ran = math.inf if started_at is None else completed_at - started_at + _START
    cause = _cause(told, ran, killed=killed)
    return ExitRecord(
        exit_code=code,
        started_at=started_at,
        completed_at=completed_at,
        cause=cause,
        limit=told.memory_limit if cause == "memory" else told.time_limit,
        cpu_seconds=told.cpu_seconds,
        peak_memory_bytes=told.peak_memory_bytes
        or (told.memory_limit if cause == "memory" else None),
        reason=reason,
        result=told.result,
        sure=told.system != "-",
    )


def _cause(told: Told, ran: float, *, killed: bool) -> Cause | None:
    """Return why a task was ended; the order decides.

    At an orderly shutdown a task that handles SIGTERM looks like one that completed, and a kill
    whose grace ran out like a time limit, as does one whose remains had to be ended the hard way.
    """
    if told.system in _GOING_DOWN:
        return "reboot"
    if killed:
        return "killed"
    if told.result == "oom-kill":
        return "memory"
    limit = math.inf if told.time_limit is None else told.time_limit
    return "timeout" if told.result == "timeout" and ran >= limit - _CLOCKS else None
