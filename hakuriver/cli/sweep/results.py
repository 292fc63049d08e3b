"""``hakurun results``: what came of a sweep, as a table or for other programs."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hakuriver.cli.shared.common import add_common_options, tell
from hakuriver.cli.shared.tables import Table, show
from hakuriver.cli.sweep.arguments import NAME, add_sweep
from hakuriver.errors import ConfigError
from hakuriver.model.quantities import format_duration
from hakuriver.sweep.journal import find_journal
from hakuriver.sweep.results import read_records

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from hakuriver.sweep.journal import Header
    from hakuriver.sweep.results import Record

_ROWS = 1000


def results(arguments: Sequence[str]) -> int:
    """Show the results of the sweep that is named, else of the newest; return the exit code."""
    options = _make_parser().parse_args(arguments)
    records, header = chosen(options)
    if options.parquet:
        return _write_parquet(records, options.parquet)
    if options.csv:
        return _print_csv(records, header, extract=options.extract is not None)
    if options.json:
        return _print_json(records)
    return _print_table(records, header, extract=options.extract is not None)


def add_choice(parser: argparse.ArgumentParser) -> None:
    """Add which results are wanted, for `chosen`."""
    add_sweep(parser)
    parser.add_argument(
        "--extract",
        metavar="REGEX",
        help="show what this matches last in the end of the output (1,000 characters), its first "
        "group if it has one",
    )
    parser.add_argument("--failed", action="store_true", help="only those that failed")


def chosen(options: argparse.Namespace) -> tuple[Iterator[Record], Header]:
    """Return the records that are wanted, and what sweep they are of.

    Raises:
        NotFound: there is no such sweep.
        InvalidRequest: the pattern is none.
    """
    path, header = find_journal(options.sweep)
    records = read_records(path, extract=options.extract)
    if options.failed:
        records = (record for record in records if record["exit_code"] != 0)
    return records, header


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        f"{NAME} results",
        allow_abbrev=False,
        description="Show parameters, exit codes, durations and last lines of a sweep.",
    )
    add_common_options(parser)
    add_choice(parser)
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--csv", action="store_true", help="print CSV")
    group.add_argument("--json", action="store_true", help="print nothing but JSON on stdout")
    group.add_argument("--parquet", type=Path, metavar="FILE", help="write a Parquet file")
    return parser


def _print_table(records: Iterator[Record], header: Header, *, extract: bool) -> int:
    first = list(islice(records, _ROWS))
    last = "extracted" if extract else "last_line"
    rows = [
        (
            str(record["run"]),
            *(str(record[name]) for name in header.names),
            "-" if record["exit_code"] is None else str(record["exit_code"]),
            format_duration(record["seconds"]),
            _cell(record, last),
        )
        for record in first
    ]
    head = ("run", *header.names, "exit", "time", last.replace("_", " "))
    show(Table(head, tuple(rows), frozenset({0, len(head) - 3, len(head) - 2})))
    if next(records, None) is not None:
        tell(NAME, f"these are the first {_ROWS}; --csv, --json and --parquet give all")
    return 0


def _cell(record: Record, last: str) -> str:
    shown = record[last]
    if last == "last_line" and not shown:
        shown = record["reason"] if record["value"] is None else json.dumps(record["value"])
    return "" if shown is None else str(shown)


def _print_csv(records: Iterator[Record], header: Header, *, extract: bool) -> int:
    more = ["extracted"] if extract else []
    ends = ["last_line", "reason", "value", "task_id", "target"]
    names = ["run", *header.names, "exit_code", "seconds", "attempts", *more, *ends]
    # What a program wrote may be no text.
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    writer = csv.DictWriter(sys.stdout, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return 0


def _print_json(records: Iterator[Record]) -> int:
    """Print a list, a record at a time: there may be a million."""
    separator = "["
    for record in records:
        print(f"{separator}\n  {json.dumps(record)}", end="")
        separator = ","
    print("[]" if separator == "[" else "\n]")
    return 0


def _write_parquet(records: Iterator[Record], path: Path) -> int:
    try:
        arrow: Any = import_module("pyarrow")
        parquet: Any = import_module("pyarrow.parquet")
    except ImportError:
        raise ConfigError(
            "Parquet needs pyarrow: pip install 'hakuriver-jupyter[parquet]'"
        ) from None
    rows = [{name: _plain(name, value) for name, value in record.items()} for record in records]
    try:
        parquet.write_table(arrow.Table.from_pylist(rows), path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error}") from None
    return 0


def _plain(name: str, value: object) -> object:
    """Return what a column of one type can hold."""
    if name == "value" and value is not None:
        return json.dumps(value)
    # A parameter may have bytes in it that are no text.
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
