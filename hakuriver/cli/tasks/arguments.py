"""The client command's arguments: its parser, and which of its actions is meant."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, NoReturn

from hakuriver.cli.shared.common import add_common_options
from hakuriver.cli.shared.options import add_submit_options, is_unicode, read_count
from hakuriver.model.tasks import TaskState

if TYPE_CHECKING:
    from collections.abc import Sequence

NAME = "hakuriver.client"
_MAX_LIMIT = 1000
_ACTIONS = (
    "list_nodes",
    "health",
    "list_tasks",
    "status",
    "logs",
    "kill",
    "kill_batch",
    "rerun",
    "drain",
    "resume",
    "forget",
)
_OF_A_COMMAND = (
    "target",
    "cores",
    "memory",
    "time_limit",
    "workdir",
    "private_network",
    "private_pid",
)
#: Those that ``--watch`` keeps live; alone it shows nodes and tasks.
_LIVE = ("list_nodes", "health", "list_tasks", "status", "watch")
#: Options that have no meaning without one of the actions beside them.
_NEEDS = {
    **dict.fromkeys(("state", "node", "batch", "mine"), ("list_tasks", "watch")),
    **dict.fromkeys(("limit", "before"), ("list_tasks",)),
    **dict.fromkeys(("stderr", "tail"), ("logs",)),
    **dict.fromkeys(("env", "env_file", "no_queue", "wait"), ("command", "rerun")),
    **dict.fromkeys(_OF_A_COMMAND, ("command",)),
    "follow": ("logs", "command", "rerun"),
    "name": ("list_tasks", "watch", "command"),
    "watch": _LIVE,
}


class _Parser(argparse.ArgumentParser):
    """A parser that knows what people forget most."""

    def error(self, message: str) -> NoReturn:
        """End with the usage, and with a word on the ``--`` before a command."""
        _, named, words = message.partition("unrecognized arguments: ")
        if named and not words.startswith("-"):
            message += " (put the command after --)"
        super().error(message)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of everything before ``--``."""
    parser = _Parser(
        NAME,
        allow_abbrev=False,
        usage=f"{NAME} [options] -- COMMAND ARGS…\n       {NAME} ACTION [options]",
        description="Run commands on the cluster, look after tasks, show nodes.",
    )
    add_common_options(parser)
    parser.add_argument("--json", action="store_true", help="print nothing but JSON on stdout")
    # Scripts of the first public version give it; changes are pushed, so it has no use.
    parser.add_argument("--poll-interval", help=argparse.SUPPRESS)
    _add_actions(parser)
    _add_filters(parser)
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
    group.add_argument("--kill-batch", metavar="ID", help="end all tasks of a batch")
    group.add_argument(
        "--rerun", metavar="ID", help="run an ended task again (also --env, --no-queue, --wait)"
    )
    group.add_argument("--drain", metavar="NODE", help="give a node no new tasks")
    group.add_argument("--resume", metavar="NODE", help="give it tasks again")
    group.add_argument("--forget", metavar="NODE", help="remove a node that is offline")
    heading.add_argument(
        "--watch",
        action="store_true",
        help="show nodes and tasks live; or keep --list-nodes, --health, --list-tasks or "
        "--status live",
    )


def _add_filters(parser: argparse.ArgumentParser) -> None:
    filters = parser.add_argument_group("with --list-tasks (also --name)")
    filters.add_argument(
        "--state",
        choices=[state.value for state in TaskState],
        metavar="S",
        help=f"one of: {', '.join(TaskState)}",
    )
    filters.add_argument("--node", type=_text, metavar="N", help="on this node only")
    filters.add_argument("--batch", type=_text, metavar="ID", help="of this batch only")
    filters.add_argument("--mine", action="store_true", help="of this token's name only")
    filters.add_argument(
        "--limit", type=_limit, default=50, metavar="N", help="at most so many (default 50)"
    )
    filters.add_argument("--before", type=_text, metavar="ID", help="older than this task only")
    reading = parser.add_argument_group("with --logs")
    reading.add_argument("--stderr", action="store_true", help="the other stream")
    reading.add_argument("--tail", type=read_count, metavar="N", help="the last N lines only")


def find_action(
    parser: argparse.ArgumentParser,
    options: argparse.Namespace,
    command: Sequence[str],
    *,
    separated: bool,
) -> str:
    """Return what is to be done; end with the usage if that is not clear."""
    given = [name for name in _ACTIONS if getattr(options, name) not in (None, False)]
    if options.watch and not given:
        given = ["watch"]
    if separated and given:
        parser.error(f"a command goes without {_flag(given[0])}")
    if separated and not command:
        parser.error("give a command after --")
    if not separated and not given:
        known = ", ".join(map(_flag, (*_ACTIONS, "watch")))
        parser.error(f"give a command after --, or one of: {known}")
    action = given[0] if given else "command"
    _check_company(parser, options, action)
    return action


def _check_company(
    parser: argparse.ArgumentParser, options: argparse.Namespace, action: str
) -> None:
    """End with the usage if an option was given that would do nothing."""
    for name, needed in _NEEDS.items():
        if getattr(options, name) != parser.get_default(name) and action not in needed:
            others = " or ".join(
                "a command" if other == "command" else _flag(other) for other in needed
            )
            parser.error(f"{_flag(name)} goes with {others}")
    if options.json and options.follow:
        parser.error("--json goes without --follow, whose output is not JSON")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _text(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("is empty; leave it out for all")
    if not is_unicode(text):
        raise argparse.ArgumentTypeError("is not valid Unicode")
    return text


def _limit(text: str) -> int:
    number = read_count(text)
    if not 1 <= number <= _MAX_LIMIT:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 to {_MAX_LIMIT}")
    return number
