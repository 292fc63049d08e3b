"""A database with very many ended tasks, made of the few that a real cluster has run."""

from __future__ import annotations

import ast
import re
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

#: Runs the host as its command does, and writes every statement that it asks of its database.
TRACING_HOST = """
import logging, sys
logger = logging.getLogger("peewee")
logger.setLevel(logging.DEBUG)
logger.propagate = False
logger.addHandler(logging.FileHandler(sys.argv.pop(1)))
from hakuriver.cli.host import main
sys.exit(main())
"""
#: Two of five copies are busy, in all respects, and none of them has failed.
_CASE = "CASE WHEN n % {1} = {0} THEN {2} WHEN n % 10 IN (2, 4, 6, 8) THEN 'busy' ELSE {3} END"
#: What makes a copy of a task another task; the rest of its columns are those of the original.
_CHANGED = {
    "id": "{oldest} - {count} + n",
    "rev": "n",
    "name": _CASE.format(70, 1000, "name", "'another'"),
    "node": _CASE.format(7, 10, "'node7'", "'node1'"),
    "owner": _CASE.format(0, 10, "'alice'", "'default'"),
    "status": "CASE n % 100 WHEN 0 THEN 'killed' WHEN 1 THEN 'failed' ELSE status END",
}


def multiply(file: Path, count: int) -> None:
    """Add `count` tasks, older than all there are, to the closed database `file`."""
    with closing(sqlite3.connect(file)) as database, database:
        indices = _rows(
            database,
            "SELECT name, sql FROM sqlite_master"
            " WHERE type = 'index' AND tbl_name = 'task' AND sql IS NOT NULL",
        )
        for name, _ in indices:
            database.execute(f'DROP INDEX "{name}"')
        columns = [str(row[1]) for row in _rows(database, "PRAGMA table_info(task)")]
        ((oldest,),) = _rows(database, "SELECT min(id) FROM task")
        values = [_CHANGED.get(name, name).format(oldest=oldest, count=count) for name in columns]
        database.execute(
            "WITH RECURSIVE numbers (n) AS"
            f" (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n < {count - 1})"
            f" INSERT INTO task ({', '.join(columns)}) SELECT {', '.join(values)}"
            f" FROM (SELECT * FROM task WHERE id = {oldest}), numbers"
        )
        for _, sql in indices:
            database.execute(sql)


def statements(trace: Path, start: int = 0) -> list[tuple[str, list[object]]]:
    """Return the queries of tasks that a tracing host has written since the byte `start`."""
    found: list[tuple[str, list[object]]] = []
    for line in trace.read_bytes()[start:].decode().splitlines():
        sql, parameters = ast.literal_eval(line)
        if re.match(r"SELECT\b.*\bFROM \"?task\b", sql):
            found.append((sql, list(parameters or ())))
    return found


def plan(file: Path, sql: str, parameters: list[object]) -> list[str]:
    """Return the steps in which SQLite would answer a query."""
    with closing(sqlite3.connect(file)) as database:
        return [str(row[3]) for row in _rows(database, f"EXPLAIN QUERY PLAN {sql}", parameters)]


def work(file: Path, sql: str, parameters: list[object]) -> int:
    """Return for how many thousand steps of its machine SQLite works on a query."""
    done = 0

    def count() -> int:
        nonlocal done
        done += 1
        return 0

    with closing(sqlite3.connect(file)) as database:
        database.set_progress_handler(count, 1000)
        _rows(database, sql, parameters)
    return done


def _rows(database: sqlite3.Connection, sql: str, parameters: list[Any] | None = None) -> list[Any]:
    return database.execute(sql, parameters or []).fetchall()
