"""``hakuriver.client``: submit commands, look after tasks, show nodes."""

from __future__ import annotations

import argparse
import io
import os
import sys
from typing import TYPE_CHECKING

from hakuriver.cli.common import add_common_options, run
from hakuriver.cli.options import add_submit_options

if TYPE_CHECKING:
    from collections.abc import Sequence

_NAME = "hakuriver.client"
_MAX_LIMIT = 1000
_BROKEN_PIPE = 141
_ACTIONS = ("list_nodes", "health", "list_tasks", "status", "logs", "kill")
_OF_A_COMMAND = (
    "target",
    "cores",
    "memory",
    "time_limit",
    "workdir",
    "env",
    "env_file",
    "private_network",
    "private_pid",
)
#: Options that have no meaning without one of the actions beside them.
_NEEDS = {
    "state": ("list_tasks",),
    "node": ("list_tasks",),
    "batch": ("list_tasks",),
    "stderr": ("logs",),
    "tail": ("logs",),
    "follow": ("logs", "command"),
    "wait": ("command",),
    "limit": ("list_tasks",),
    "name": ("list_tasks", "command"),
    **dict.fromkeys(_OF_A_COMMAND, ("command",)),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the arguments say and return the exit code.

    What comes after ``--`` is the command to run and is not interpreted here.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal that lacks a character must not end the command.
        sys.stdout.reconfigure(errors="backslashreplace")
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    command = arguments[cut + 1 :]
    parser = make_parser()
    options = parser.parse_args(arguments[:cut])
    action = _action(parser, options, command, separated=cut < len(arguments))
    try:
        code = run(_NAME, lambda: _act(parser, action, options, command))
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has enough. Python would complain once more at the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    return code


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of everything before ``--``."""
    parser = argparse.ArgumentParser(
        _NAME,
        allow_abbrev=False,
        usage=f"{_NAME} [options] -- COMMAND ARGS…\n       {_NAME} ACTION [options]",
        description="Run commands on the cluster, look after tasks, show nodes.",
    )
    add_common_options(parser)
    parser.add_argument("--json", action="store_true", help="print nothing but JSON on stdout")
    # Scripts of the first public version give it; changes are pushed, so it has no use.
    parser.add_argument("--poll-interval", help=argparse.SUPPRESS)
    _add_actions(parser)
    add_submit_options(parser)
    group = parser.add_argument_group("after the submission")
    group.add_argument(
        "--wait", action="store_true", help="wait for all tasks; exit with the task's own code"
    )
    group.add_argument(
        "--follow", action="store_true", help="wait and print the output; or go on with --logs"
    )
    return parser


def _add_actions(parser: argparse.ArgumentParser) -> None:
    heading = parser.add_argument_group("instead of a command")
    group = heading.add_mutually_exclusive_group()
    group.add_argument("--list-nodes", action="store_true", help="show the nodes")
    group.add_argument(
        "--health", nargs="?", const="", metavar="NODE", help="show how busy the nodes are"
    )
    group.add_argument("--list-tasks", action="store_true", help="show tasks, newest first")
    group.add_argument("--status", metavar="ID", help="show one task")
    group.add_argument("--logs", metavar="ID", help="print what a task has written")
    group.add_argument("--kill", metavar="ID", help="end a task")
    filters = parser.add_argument_group("with --list-tasks (also --name)")
    filters.add_argument("--state", metavar="S", help="in this state only")
    filters.add_argument("--node", metavar="N", help="on this node only")
    filters.add_argument("--batch", metavar="ID", help="of this submission only")
    filters.add_argument(
        "--limit", type=_limit, default=50, metavar="N", help="at most so many (default 50)"
    )
    reading = parser.add_argument_group("with --logs")
    reading.add_argument("--stderr", action="store_true", help="the other stream")
    reading.add_argument("--tail", type=_count, metavar="N", help="the last N lines only")


def _action(
    parser: argparse.ArgumentParser,
    options: argparse.Namespace,
    command: Sequence[str],
    *,
    separated: bool,
) -> str:
    """Return what is to be done; end with the usage if that is not clear."""
    given = [name for name in _ACTIONS if getattr(options, name) not in (None, False)]
    if separated and given:
        parser.error(f"a command goes without {_flag(given[0])}")
    if separated and not command:
        parser.error("give a command after --")
    if not separated and not given:
        parser.error("give a command after --, or one of: " + ", ".join(map(_flag, _ACTIONS)))
    action = given[0] if given else "command"
    for name, needed in _NEEDS.items():
        if getattr(options, name) != parser.get_default(name) and action not in needed:
            others = " or ".join(
                "a command" if other == "command" else _flag(other) for other in needed
            )
            parser.error(f"{_flag(name)} goes with {others}")
    if options.json and options.follow:
        parser.error("--json goes without --follow, whose output is not JSON")
    return action


def _act(
    parser: argparse.ArgumentParser,
    action: str,
    options: argparse.Namespace,
    command: Sequence[str],
) -> int:
    # Imported here: usage errors and --help need no HTTP.
    from hakuriver.cli import queries, submitting  # noqa: PLC0415
    from hakuriver.client.sync import Client  # noqa: PLC0415

    if action == "command":
        request = submitting.build_request(parser, options, command)
        with Client(config=options.config) as client:
            return submitting.submit(client, options, request)
    with Client(config=options.config) as client:
        return int(getattr(queries, action)(client, options))


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _limit(text: str) -> int:
    number = _count(text)
    if not 1 <= number <= _MAX_LIMIT:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 to {_MAX_LIMIT}")
    return number


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):  # noqa: PLR2004
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number")
    return int(text)
