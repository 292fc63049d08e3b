"""``hakuriver.client``: submit commands, look after tasks, show nodes."""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING

from hakuriver.cli.shared.common import run
from hakuriver.cli.shared.entry import entry
from hakuriver.cli.tasks.arguments import NAME, find_action, make_parser

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence


@entry
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
    action = find_action(parser, options, command, separated=cut < len(arguments))
    return run(NAME, lambda: _act(parser, action, options, command))


def _act(
    parser: argparse.ArgumentParser,
    action: str,
    options: argparse.Namespace,
    command: Sequence[str],
) -> int:
    # Imported here, each where it is needed: usage errors and --help need no HTTP.
    if options.config or not os.environ.get("HAKURIVER_URL"):
        from hakuriver.cli.shared.settings import settings  # noqa: PLC0415

        settings(NAME, options.config)
    if options.watch:
        from hakuriver.cli.tasks import watching  # noqa: PLC0415

        return watching.watch(action, options)
    from hakuriver.cli.tasks import queries, submitting  # noqa: PLC0415
    from hakuriver.client.sync import Client  # noqa: PLC0415

    if action == "command":
        request = submitting.build_request(parser, options, command)
        with Client(config=options.config) as client:
            return submitting.submit(client, options, request)
    if action == "rerun":
        env = submitting.build_env(parser, options)
        with Client(config=options.config) as client:
            return submitting.rerun(client, options, env)
    with Client(config=options.config) as client:
        return int(getattr(queries, action)(client, options))
