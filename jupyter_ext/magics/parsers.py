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

from hakuriver.cli.shared.options import add_submit_options

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
        "-o", "--out", metavar="NAME", type=variable, help="store the future in this variable"
    )
    kind = group.add_mutually_exclusive_group()
    kind.add_argument("--shell", action="store_true", help="run the cell with sh")
    kind.add_argument("--python", metavar="PATH", help="run the cell with this interpreter")
    group.add_argument(
        "--no-raise-error",
        action="store_true",
        help="a task that fails shows in the status line alone",
    )
    group.add_argument(
        "--detach",
        "--bg",
        action="store_true",
        help="return the future at once; the output goes on under this cell",
    )
    group.add_argument(
        "--on-interrupt",
        choices=("kill", "detach"),
        default="kill",
        help="what an interrupt does: end the task (kill), or leave it running",
    )
    return parser


def parse(parser: MagicParser, line: str, names: Mapping[str, Any]) -> argparse.Namespace:
    """Return the options on `line` after filling in ``{name}`` and ``$name`` from `names`."""
    return parser.parse_args(split(parser.prog, line, names))


def split(prog: str, line: str, names: Mapping[str, Any]) -> list[str]:
    """Return the words of `line`, filled in from `names`."""
    return words_of(prog, fill(prog, line, names))


def words_of(prog: str, line: str) -> list[str]:
    """Return the words of `line`, as a shell would cut them."""
    try:
        return shlex.split(line)
    except ValueError as error:
        raise UsageError(f"{prog}: {error} in: {line}") from None


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


def variable(text: str) -> str:
    """Return `text` if it may name a variable; raise `ArgumentTypeError`."""
    if not text.isidentifier() or iskeyword(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no name for a variable")
    return text
