"""The options of ``%hakuriver COMMAND``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError

from hakuriver.cli.shared.options import add_submit_options
from jupyter_ext.magics.parsers import MagicParser, split

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Add = Callable[[str, str], MagicParser]

_PROG = "%hakuriver"
_TASK = "the task's id"


def parse_line(line: str, names: Mapping[str, Any]) -> argparse.Namespace:
    """Return the options on a ``%hakuriver`` line; the command's name is in ``command``.

    The words after the ``--`` of ``submit`` are in ``words``, not interpreted.
    """
    before = split(_PROG, line, names)
    words: list[str] = []
    if before[:1] == ["submit"] and "--" in before:
        cut = before.index("--")
        before, words = before[:cut], before[cut + 1 :]
    options = line_parser().parse_args(before)
    options.words = words
    if options.command == "submit" and not words:
        raise UsageError(f"{_PROG} submit: give a command after --")
    return options


def line_parser() -> MagicParser:
    """Return the parser of everything before ``--``."""
    parser = MagicParser(prog=_PROG, allow_abbrev=False, description="Look after a cluster.")
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", required=True, parser_class=MagicParser
    )

    def add(name: str, words: str) -> MagicParser:
        return commands.add_parser(name, help=words, description=words, allow_abbrev=False)

    _add_connecting(add)
    _add_looking(add)
    _add_ending(add)
    _add_futures(add)
    return parser


def _add_connecting(add: Add) -> None:
    up = add("up", "start a cluster on this machine, or find the running one")
    up.add_argument("--nodes", type=_count, metavar="N", help="how many nodes (default 1)")
    add("down", "stop the cluster that up started")
    connect = add("connect", "use the host at this address from now on")
    connect.add_argument("url", metavar="URL")
    token = connect.add_mutually_exclusive_group()
    token.add_argument("--token", help="the client token")
    token.add_argument("--token-file", metavar="FILE", help="a file that holds the token")


def _add_looking(add: Add) -> None:
    add("nodes", "list the nodes")
    tasks = add("tasks", "list tasks, newest first")
    tasks.add_argument("--state", metavar="S")
    tasks.add_argument("--node", metavar="N")
    tasks.add_argument("--mine", action="store_true", help="yours only")
    tasks.add_argument("--limit", type=_count, default=50, metavar="N", help="how many at most")
    add("status", "show one task").add_argument("id", metavar="ID", help=_TASK)
    logs = add("logs", "print what a task has written so far")
    logs.add_argument("id", metavar="ID", help=_TASK)
    logs.add_argument("--stderr", action="store_true", help="its stderr, not its stdout")
    logs.add_argument("--tail", type=_count, metavar="N", help="the last N lines alone")
    logs.add_argument("--follow", action="store_true", help="go on to the task's end")


def _add_ending(add: Add) -> None:
    add("kill", "end a task").add_argument("id", metavar="ID", help=_TASK)
    batch = add("kill-batch", "end all tasks of a batch")
    batch.add_argument("id", metavar="ID", help="the batch's id")
    for name, words in (
        ("drain", "give a node no new tasks; those it has go on"),
        ("resume", "give a node new tasks again"),
        ("forget", "remove a node that is offline for good"),
    ):
        add(name, words).add_argument("node", metavar="NODE", help="the node's name")


def _add_futures(add: Add) -> None:
    submit = add("submit", "submit the command after -- and return its future at once")
    # argparse fills in what follows a single %.
    submit.usage = f"%{_PROG} submit [options] -- COMMAND ARGS…"
    add_submit_options(submit)
    attach = add("attach", "show a task or batch from its start, and return its future")
    attach.add_argument("id", metavar="ID", help="the id of the task or batch")
    attach.add_argument(
        "--detach",
        "--bg",
        action="store_true",
        help="return the future at once; the output goes on under this cell",
    )
    wait = add("wait", "wait for tasks or batches and return their results")
    wait.add_argument("ids", nargs="*", metavar="ID", help="their ids (default: the last future)")
    add("last", "return the last future of this session")
    rerun = add("rerun", "submit a task that has ended again, and return its future at once")
    rerun.add_argument("id", metavar="ID", help=_TASK)
    rerun.add_argument(
        "--env",
        action="append",
        default=[],
        metavar="K=V",
        help="its variables again: the host has erased their values; K alone takes the one here",
    )


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < len(text) < 10 and int(text) > 0):  # noqa: PLR2004
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)
