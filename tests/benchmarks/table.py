"""The results as a table for people and as JSON for programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.floors import Floors
    from benchmarks.rows import Goal, Row

_HEAD = ("figure", "measured", "ratio to floor", "reach", "stretch", "met", "")


def render(rows: Sequence[Row], floors: Sequence[Floors], notes: Sequence[str]) -> str:
    """Return everything as text; the floors are those before and after the figures."""
    floor = floor_ms(floors)
    lines = [*_floor_lines(floors), *notes, ""]
    lines += _columns([_HEAD, *(_cells(row, floor) for row in rows)])
    lines += _cpu_lines(rows)
    lines += [f"WRONG: {row.figure}: {row.wrong}" for row in rows if row.wrong]
    return "\n".join(lines)


def floor_ms(floors: Sequence[Floors]) -> float:
    """Return the floor of all ratios: the lowest of those measured, as load only adds to it."""
    return min(each.process for each in floors)


def as_json(rows: Sequence[Row], floors: Sequence[Floors], notes: Sequence[str]) -> bytes:
    """Return everything as one JSON object, a row with its ratio and the aim that it met."""
    floor = floor_ms(floors)
    document = {
        "floors": floors,
        "notes": notes,
        "rows": [
            msgspec.to_builtins(row) | {"ratio": row.ratio(floor), "met": _met(row, floor)}
            for row in rows
        ],
    }
    return msgspec.json.format(msgspec.json.encode(document)) + b"\n"


def _floor_lines(floors: Sequence[Floors]) -> Iterator[str]:
    for name, what in (
        ("process", "a bare process (subprocess.run of /bin/true), the floor"),
        ("request", "an empty request to a bare server"),
        ("create", "a new file in the state directory"),
        ("fsync", "an fsync of the state directory"),
    ):
        values = " and ".join(f"{getattr(each, name):.2f}" for each in floors)
        yield f"{what}: {values} ms"


def _cells(row: Row, floor: float) -> tuple[str, ...]:
    ratio = row.ratio(floor)
    return (
        row.figure,
        _measured(row),
        "" if ratio is None else f"{ratio:.1f}",
        _aim(row.goal, row, "reach"),
        _aim(row.goal, row, "stretch"),
        _met(row, floor),
        row.detail,
    )


def _measured(row: Row) -> str:
    digits = 0 if row.unit == "/s" else 2
    return f"{row.value:,.{digits}f} {row.unit}"


def _aim(goal: Goal | None, row: Row, name: str) -> str:
    if goal is None:
        return ""
    sign = "≥" if goal.at_least else "≤"
    return f"{sign} {getattr(goal, name):,g} {'floors' if goal.floors else row.unit}"


def _met(row: Row, floor: float) -> str:
    return "" if row.goal is None else row.goal.met(row.value, floor)


def _cpu_lines(rows: Sequence[Row]) -> list[str]:
    measured = [row for row in rows if row.cpu_ms]
    if not measured:
        return []
    names = list(measured[0].cpu_ms)
    table = [("CPU ms per task", *names, "together")]
    for row in measured:
        values = [*row.cpu_ms.values(), sum(row.cpu_ms.values())]
        table.append((row.figure, *(f"{value:.2f}" for value in values)))
    return ["", *_columns(table)]


def _columns(table: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in table
    ]
