"""The options of the magics, and how a magic's line becomes them.

The cell form has the options of the client's command line, from the same parser. Everything that
is wrong with a line becomes a `UsageError`, which IPython shows as one line.
"""

from __future__ import annotations

import argparse
import shlex
from keyword import iskeyword
from typing import TYPE_CHECKING, Any, NoReturn

from IPython.core.error import UsageError
from IPython.utils.text import DollarFormatter

from hakuriver.cli.options import add_submit_options

if TYPE_CHECKING:
    from collections.abc import Mapping


class HelpShown(Exception):  # noqa: N818 - it ends the command, nothing is wrong
    """The help was asked for and printed."""


class MagicParser(argparse.ArgumentParser):
    """A parser that never ends the process: it raises `UsageError` or `HelpShown`."""

    def error(self, message: str) -> NoReturn:
        """Raise the one line that says what is wrong."""
        raise UsageError(f"{self.prog}: {message}")

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:  # noqa: ARG002
        """End the command after its help."""
        raise HelpShown


def cell_parser() -> MagicParser:
    """Return the parser of a ``%%hakuriver`` line."""
    parser = MagicParser(
        prog="%%hakuriver",
        allow_abbrev=False,
        description="Run the cell on the cluster: as Python, or as its #! line says.",
        epilog="-t is short for --target.",
    )
    add_submit_options(parser)
    group = parser.add_argument_group("the cell")
    group.add_argument(
        "-o", "--out", metavar="NAME", type=_variable, help="store the future in this variable"
    )
    kind = group.add_mutually_exclusive_group()
    kind.add_argument("--shell", action="store_true", help="run the cell with sh")
    kind.add_argument("--python", metavar="PATH", help="run the cell with this interpreter")
    group.add_argument(
        "--no-raise-error",
        action="store_true",
        help="a task that fails shows in the status line alone",
    )
    return parser


def line_parser() -> MagicParser:
    """Return the parser of a ``%hakuriver`` line; the command's name is in ``command``."""
    parser = MagicParser(prog="%hakuriver", allow_abbrev=False, description="Look after a cluster.")
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", required=True, parser_class=MagicParser
    )
    up = commands.add_parser("up", help="start a cluster on this machine, or find the running one")
    up.add_argument("--nodes", type=_count, metavar="N", help="how many nodes (default 1)")
    commands.add_parser("down", help="stop the cluster that up started")
    connect = commands.add_parser("connect", help="use the host at this address from now on")
    connect.add_argument("url", metavar="URL")
    token = connect.add_mutually_exclusive_group()
    token.add_argument("--token", help="the client token")
    token.add_argument("--token-file", metavar="FILE", help="a file that holds the token")
    commands.add_parser("nodes", help="list the nodes")
    tasks = commands.add_parser("tasks", help="list tasks, newest first")
    tasks.add_argument("--state", metavar="S")
    tasks.add_argument("--node", metavar="N")
    tasks.add_argument("--limit", type=_count, default=50, metavar="N", help="how many at most")
    _add_id(commands.add_parser("status", help="show one task"))
    logs = commands.add_parser("logs", help="print what a task has written so far")
    _add_id(logs)
    logs.add_argument("--stderr", action="store_true", help="its stderr, not its stdout")
    logs.add_argument("--tail", type=_count, metavar="N", help="the last N lines alone")
    _add_id(commands.add_parser("kill", help="end a task"))
    return parser


def parse(parser: MagicParser, line: str, names: Mapping[str, Any]) -> argparse.Namespace:
    """Return the options on `line` after filling in ``{name}`` and ``$name`` from `names`."""
    try:
        words = shlex.split(fill(parser.prog, line, names))
    except ValueError as error:
        raise UsageError(f"{parser.prog}: {error} in: {line}") from None
    return parser.parse_args(words)


def fill(prog: str, line: str, names: Mapping[str, Any]) -> str:
    """Return `line` with ``{expression}`` and ``$name`` filled in, as IPython does on magic lines.

    IPython itself leaves the whole line as it is if a single name is unknown, silently; here that
    is a `UsageError` which names it.
    """
    if "{" not in line and "}" not in line and "$" not in line:
        return line
    try:
        return DollarFormatter().vformat(line, args=[], kwargs=names)
    except NameError as error:
        reason = str(error)
    except Exception as error:  # noqa: BLE001 - the line is the user's own code
        reason = f"{type(error).__name__}: {error}"
    raise UsageError(
        f"{prog}: cannot fill in the line ({reason}); for the characters themselves write "
        "{{ and }}, or put $ in single quotes"
    )


def _add_id(parser: MagicParser) -> None:
    parser.add_argument("id", metavar="ID", help="the task's id")


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < len(text) < 10 and int(text) > 0):  # noqa: PLR2004
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def _variable(text: str) -> str:
    if not text.isidentifier() or iskeyword(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no name for a variable")
    return text
