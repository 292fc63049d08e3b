"""``hakuriver``: one command that leads to all the others."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING

from hakuriver._version import __version__
from hakuriver.cli.shared.entry import entry

if TYPE_CHECKING:
    from collections.abc import Sequence

# Command: module, function, and what it is for.
_COMMANDS = {
    "up": ("updown", "up", "start a cluster on this machine, or find the one that runs"),
    "down": ("updown", "down", "end that cluster, with its tasks"),
    "init": ("init", "main", "write the configuration file, with fresh secrets"),
    "host": ("host", "main", "run the host"),
    "runner": ("runner", "main", "run this machine's runner"),
    "doctor": ("doctor", "main", "show what this machine can enforce for tasks, and why not"),
    "token": ("token", "main", "print the line that makes another machine a node; replace secrets"),
    "client": ("client", "main", "submit, watch and end tasks; show nodes"),
    "hakurun": ("hakurun", "main", "run something over all combinations of parameters"),
}


@entry
def main(argv: Sequence[str] | None = None) -> int:
    """Hand on to the command named first; return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] in (["-h"], ["--help"]):
        print(_usage())
        return 0
    if arguments[:1] == ["--version"]:
        print(f"hakuriver-jupyter {__version__}")
        return 0
    if not arguments or arguments[0] not in _COMMANDS:
        named = f"there is no command {arguments[0]!r}\n" if arguments else ""
        print(f"{named}{_usage()}", file=sys.stderr)
        return 2
    module, function, _ = _COMMANDS[arguments[0]]
    command = getattr(import_module(f"hakuriver.cli.{module}"), function)
    return int(command(arguments[1:]))


def _usage() -> str:
    lines = [f"  {name:<8} {purpose}" for name, (_, _, purpose) in _COMMANDS.items()]
    return "usage: hakuriver COMMAND …\n" + "\n".join(lines)
