"""Calling systemd's tools from the event loop, and what they tell of tasks' units."""

from __future__ import annotations

import asyncio
import logging
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from hakuriver.errors import StartError
from hakuriver.runner.launchers.systemd.manager import call
from hakuriver.runner.launchers.systemd.properties import (
    Kind,
    task_of_unit,
    unit_name,
    units_pattern,
)
from hakuriver.runner.launchers.systemd.records import exit_code

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hakuriver.runner.launchers.systemd.manager import Manager, Outcome

_log = logging.getLogger(__name__)

#: So many of systemd's tools are at work at the same time; a kill does not wait behind starts.
_MAKING = 8
_ASKING = 3

_LIVING = ("active", "activating", "deactivating", "reloading", "refreshing", "maintenance")
_CODES = {"1": "exited", "2": "killed", "3": "dumped"}
_PROPERTIES = (
    *("ActiveState", "Result", "ExecMainCode", "ExecMainStatus"),
    *("ActiveEnterTimestampMonotonic", "ExecMainExitTimestampMonotonic"),
    *("RuntimeMaxUSec", "MemoryMax", "MemoryPeak", "CPUUsageNSec"),
)
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1, "min": 60, "h": 3600, "d": 86400, "w": 604800}
_SPAN = re.compile(r"(\d+(?:\.\d+)?)(us|ms|min|s|h|d|w)")
# What systemd shows of a number that is not set.
_UNSET = 1 << 63


class UnitState(msgspec.Struct, frozen=True, kw_only=True):
    """What systemd tells of a unit; `ran` is how long its main process did, in seconds."""

    active: str
    result: str = "-"
    code: int | None = None
    ran: float | None = None
    time_limit: float | None = None
    memory_limit: int | None = None
    peak_memory_bytes: int | None = None
    cpu_seconds: float | None = None

    @property
    def is_living(self) -> bool:
        """Whether the unit has not ended yet."""
        return self.active in _LIVING


@dataclass(frozen=True, slots=True)
class Units:
    """The tasks whose units live, and those whose units have failed and stay, as described."""

    living: set[int]
    failed: dict[int, str]


class Tools:
    """The calls for one manager and one kind of units."""

    def __init__(self, manager: Manager, kind: Kind) -> None:
        self._manager = manager
        self._kind: Kind = kind
        self._making = ThreadPoolExecutor(_MAKING, "systemd-run")
        self._asking = ThreadPoolExecutor(_ASKING, "systemctl")

    async def make(self, words: list[str]) -> Outcome:
        """Run the words that make a unit."""
        return await asyncio.get_running_loop().run_in_executor(self._making, call, *words)

    async def stop(self, task_id: int) -> Outcome:
        """Have a task's unit ended."""
        unit = unit_name(task_id, self._kind)
        if self._kind == "scope":
            # What oversees the scope notes the end; systemd would not wait for it.
            return await self._ask(*self._manager.control, "kill", "--signal=SIGTERM", unit)
        return await self._ask(*self._manager.control, "stop", "--no-block", unit)

    async def kill_hard(self, task_id: int) -> None:
        """Have all that is left in a task's unit killed at once."""
        unit = unit_name(task_id, self._kind)
        await self._ask(*self._manager.control, "kill", "--signal=SIGKILL", unit)

    async def reset(self, task_ids: Iterable[int]) -> bool:
        """Let systemd forget units that failed; those that ended well are forgotten already.

        Return whether it has forgotten them all.
        """
        units = [unit_name(task_id, self._kind) for task_id in task_ids]
        if not units:
            return True
        outcome = await self._ask(*self._manager.control, "reset-failed", *units)
        if outcome.code != 0:
            _log.warning("systemd does not forget what failed: %s", outcome.words)
        return outcome.code == 0

    async def show(self, task_id: int) -> UnitState:
        """Return the state of a task's unit; of one that is not there, ``inactive``.

        Raises:
            StartError: systemd does not answer.
        """
        unit, names = unit_name(task_id, self._kind), ",".join(_PROPERTIES)
        outcome = await self._ask(*self._manager.query, "show", f"--property={names}", unit)
        state = parse_state(outcome.stdout) if outcome.code == 0 else None
        if state is None:
            raise StartError(f"systemd does not tell of {unit}: {outcome.words}")
        return state

    async def units(self) -> Units:
        """Return the tasks that systemd knows of, also those of other runners.

        Raises:
            StartError: systemd does not answer.
        """
        outcome = await self._ask(
            *(*self._manager.query, "list-units", "--all", "--full", "--plain", "--no-legend"),
            units_pattern(self._kind),
        )
        if outcome.code != 0:
            raise StartError(f"systemd does not tell its units: {outcome.words}")
        units = Units(set(), {})
        for line in outcome.stdout.splitlines():
            name, _, active, _, described = line.split(maxsplit=4)
            task_id = task_of_unit(name, self._kind)
            if task_id is None:
                continue
            if active in _LIVING:
                units.living.add(task_id)
            else:
                units.failed[task_id] = described.rstrip()
        return units

    def close(self) -> None:
        """Call no more; what is being called ends by itself."""
        for threads in (self._making, self._asking):
            threads.shutdown(wait=False, cancel_futures=True)

    async def _ask(self, *words: str) -> Outcome:
        return await asyncio.get_running_loop().run_in_executor(self._asking, call, *words)


def parse_state(text: str) -> UnitState | None:
    """Return what ``systemctl show`` printed, None if that is no state of a unit."""
    told = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    if "ActiveState" not in told:
        return None
    entered = _number(told.get("ActiveEnterTimestampMonotonic"))
    exited = _number(told.get("ExecMainExitTimestampMonotonic"))
    cpu = _number(told.get("CPUUsageNSec"))
    kind = _CODES.get(told.get("ExecMainCode", ""), "-")
    return UnitState(
        active=told["ActiveState"],
        result=told.get("Result", "-"),
        code=exit_code(kind, told.get("ExecMainStatus", "-")),
        ran=(exited - entered) / 1e6 if entered and exited else None,
        time_limit=_span(told.get("RuntimeMaxUSec", "")),
        memory_limit=_number(told.get("MemoryMax")),
        peak_memory_bytes=_number(told.get("MemoryPeak")),
        cpu_seconds=None if cpu is None else cpu / 1e9,
    )


def _number(text: str | None) -> int | None:
    number = int(text) if text is not None and text.isascii() and text.isdigit() else _UNSET
    return None if number >= _UNSET else number


def _span(text: str) -> float | None:
    """Return a span as systemd writes it (systemd.time(7)), ``1min 30s``, in seconds."""
    parts = _SPAN.findall(text)
    return sum(float(number) * _UNITS[unit] for number, unit in parts) if parts else None
