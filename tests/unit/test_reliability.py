"""The tests that `docs/reliability.md` names are there."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "reliability.md"
_NAMED = re.compile(r"`((?:unit|integration|notebook|lab|faults)/[\w/]+\.py)(?:::(\w+))?`")


@cache
def functions_of(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_text("utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, kinds))


def test_every_test_that_is_named_exists() -> None:
    named = _NAMED.findall(PAGE.read_text("utf-8"))
    assert len(named) > 50
    missing = [
        f"{file}::{name}"
        for file, name in named
        if not (TESTS / file).is_file() or (name and name not in functions_of(TESTS / file))
    ]
    assert not missing


def test_every_row_of_what_happens_names_one() -> None:
    """A table whose last column is "proven by" has a test in each of its rows."""
    proving = False
    for line in PAGE.read_text("utf-8").splitlines():
        if line.startswith("| ") and line.endswith("proven by |"):
            proving = True
        elif not line.startswith("|"):
            proving = False
        elif proving and not line.startswith("| ---"):
            assert _NAMED.search(line.rsplit("|", 2)[1]), line
