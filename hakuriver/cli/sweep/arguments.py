"""What ``hakurun`` takes before the program: its options, and where they end."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hakuriver.cli.shared.common import add_common_options
from hakuriver.cli.shared.options import add_task_options, read_count, read_duration, read_target
from hakuriver.errors import HakuRiverError
from hakuriver.sweep.journal import find_journal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

NAME = "hakurun"
_MAX_JOBS = 10_000
_DESCRIPTION = """\
Run a program, script, module or module:function over all combinations of parameters.
Parameters are spans, in quotes: 'span:{1..10}', 'span:{0.1..0.5..0.1}', 'span:{A..Z}',
'span:[a,b]', 'span:@FILE'."""


@dataclass(frozen=True, slots=True)
class Arguments:
    """What was typed: the options, and the command with its spans.

    `lead` are all the words before the command, as they were typed.
    """

    lead: list[str]
    options: argparse.Namespace
    command: list[str]


def parse(
    arguments: Sequence[str],
    *,
    parser_class: type[argparse.ArgumentParser] = argparse.ArgumentParser,
    more: Callable[[argparse.ArgumentParser], list[str]] = lambda _: [],
) -> Arguments:
    """Return what was typed; end with the usage if it cannot be accepted.

    `more` adds options to the parser, which is a `parser_class`, and returns those with a value.
    """
    parser, valued = _make_parser(parser_class, more)
    resume, before, command = _cut(arguments, valued)
    options = parser.parse_args(before)
    options.resume = resume
    if not command and resume is None:
        parser.error("give a program, script, module or module:function to run")
    if options.name and options.name == (command or [""])[0]:
        parser.error("--name is not to be that of the program, or --resume could not tell them")
    if options.jobs is not None:
        options.parallel = True
    if not options.on and resume is None:
        for name in ("cores", "memory", "workdir", "private_network", "private_pid", "python"):
            if getattr(options, name) != parser.get_default(name):
                parser.error(f"--{name.replace('_', '-')} goes with --on")
        if options.env or options.env_file:
            parser.error("--env goes with --on")
    if options.on and options.parallel:
        parser.error("--jobs and --parallel go without --on: the nodes' room decides")
    if options.fail_fast:
        options.max_failures = 1
    return Arguments(list(arguments[: len(arguments) - len(command)]), options, command)


def add_sweep(parser: argparse.ArgumentParser) -> None:
    """Add which earlier sweep is meant, the newest if none is."""
    parser.add_argument("sweep", nargs="?", metavar="SWEEP", help="its id, name or journal's path")


def _cut(
    arguments: Sequence[str], valued: frozenset[str]
) -> tuple[str | None, list[str], list[str]]:
    """Return what is to be resumed (empty: the newest), the options, and the command.

    Options may stand between ``--resume`` and its sweep.
    """
    resume: str | None = None
    before: list[str] = []
    words = list(arguments)
    while words and (words[0].startswith("-") or (resume == "" and _is_sweep(words[0]))):
        word = words.pop(0)
        if word == "--":
            break
        if not word.startswith("-"):
            resume = word
        elif word == "--resume":
            resume = ""
        elif word.startswith("--resume="):
            resume = word.partition("=")[2]
        else:
            before.append(word)
            if word in valued and words:
                before.append(words.pop(0))
    return resume, before, words


def _is_sweep(word: str) -> bool:
    """Tell whether a word after ``--resume`` is a sweep rather than the program."""
    try:
        find_journal(word)
    except HakuRiverError:
        return False
    return True


def _make_parser(
    parser_class: type[argparse.ArgumentParser],
    more: Callable[[argparse.ArgumentParser], list[str]],
) -> tuple[argparse.ArgumentParser, frozenset[str]]:
    """Return the parser, and those of its options that take a value."""
    parser = parser_class(
        NAME,
        allow_abbrev=False,
        usage=f"{NAME} [options] APP ARGS…\n       {NAME} --resume [SWEEP]\n"
        f"       {NAME} results [SWEEP] [--help]",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_common_options(parser)
    running = _add_running(parser)
    keeping = _add_keeping(parser)
    on_cluster = _add_cluster(parser)
    valued = {"-c", "--config", *running, *keeping, *on_cluster, *more(parser)}
    return parser, frozenset(valued)


def _add_running(parser: argparse.ArgumentParser) -> list[str]:
    group = parser.add_argument_group("how to run")
    group.add_argument("--zip", action="store_true", help="go through all spans at once")
    group.add_argument("--parallel", action="store_true", help="run several at once")
    group.add_argument(
        "--jobs",
        type=_jobs,
        metavar="N",
        help="so many (default: the CPUs; in a task its cores); means --parallel",
    )
    group.add_argument(
        "--retries", type=read_count, default=0, metavar="N", help="try a failed one N times more"
    )
    group.add_argument(
        "--timeout",
        type=read_duration,
        metavar="D",
        help="end one that takes longer than D, like 90s",
    )
    group.add_argument("--fail-fast", action="store_true", help="end all at the first failure")
    group.add_argument("--max-failures", type=_jobs, metavar="N", help="end all when N have failed")
    group.add_argument("--progress", action="store_true", help="show how far it is")
    group.add_argument(
        "--out-dir", type=Path, metavar="DIR", help="write into files there, two for each"
    )
    group.add_argument("--dry-run", action="store_true", help="show the combinations, run none")
    return ["--jobs", "--retries", "--timeout", "--max-failures", "--out-dir"]


def _add_keeping(parser: argparse.ArgumentParser) -> list[str]:
    group = parser.add_argument_group("going on later")
    # Only for the help: whether a word belongs to it, `_cut` tells.
    group.add_argument(
        "--resume",
        nargs="?",
        metavar="SWEEP",
        help="run what is missing or failed of an earlier sweep, by default the newest one",
    )
    group.add_argument("--name", default="", metavar="TEXT", help="a name to find the sweep by")
    group.add_argument("--journal", type=Path, metavar="PATH", help="keep the journal there")
    return ["--name", "--journal"]


def _add_cluster(parser: argparse.ArgumentParser) -> list[str]:
    group = parser.add_argument_group("on a cluster (also --env and so on of hakuriver.client)")
    group.add_argument(
        "--on",
        action="append",
        default=[],
        type=read_target,
        metavar="NODE[:NUMA]",
        help="run each combination as a task there; repeat it for several targets",
    )
    group.add_argument(
        "--python", metavar="PATH", help="what runs scripts, modules and functions on the nodes"
    )
    add_task_options(group)
    return [
        *("--on", "--python", "--cores", "--memory", "--workdir", "--env", "--env-file"),
    ]


def _jobs(text: str) -> int:
    number = read_count(text)
    if not 1 <= number <= _MAX_JOBS:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 to {_MAX_JOBS}")
    return number
