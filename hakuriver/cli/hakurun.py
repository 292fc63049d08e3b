"""``hakurun``: run something over all combinations of parameters, and show what came of it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from hakuriver.cli.shared.common import run, tell
from hakuriver.cli.shared.entry import entry
from hakuriver.cli.shared.tables import printable
from hakuriver.cli.sweep.arguments import NAME, parse
from hakuriver.sweep.shell import Unquoted
from hakuriver.sweep.spans import SpanError

if TYPE_CHECKING:
    from collections.abc import Sequence


@entry
def main(argv: Sequence[str] | None = None) -> int:
    """Do what the arguments say and return the exit code.

    What comes after the options is the program with its arguments; ``results`` instead of a
    program shows those of an earlier sweep, and ``kill`` ends its tasks (a program of that name is
    run by its path, as ``./results``).
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    return run(NAME, lambda: _act(arguments))


def _act(arguments: Sequence[str]) -> int:
    if arguments[:1] == ["results"]:
        from hakuriver.cli.sweep.results import results  # noqa: PLC0415 - it is not always needed

        return results(arguments[1:])
    if arguments[:1] == ["kill"]:
        from hakuriver.cli.sweep.kill import kill  # noqa: PLC0415

        return kill(arguments[1:])
    parsed = parse(arguments)
    from hakuriver.cli.sweep.running import sweep  # noqa: PLC0415 - not for --help

    try:
        return sweep(parsed)
    except SpanError as error:
        _point(error)
        return error.exit_code
    except Unquoted as error:
        tell(NAME, str(error))
        print(f"  {printable(error.suggestion)}", file=sys.stderr, flush=True)
        return error.exit_code


def _point(error: SpanError) -> None:
    """Show the argument and, below it, the place of the mistake."""
    tell(NAME, error.reason)
    before = printable(error.word[: error.place])
    print(f"  {printable(error.word)}\n  {' ' * len(before)}^", file=sys.stderr, flush=True)
