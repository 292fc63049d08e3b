"""What ``%hakuriver COMMAND`` does: each function is one command and returns what to display."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from hakuriver.cli.show import node_table, status_table, task_table
from hakuriver.client.endpoint import embedded_endpoint
from jupyter_ext.magics.render import table
from jupyter_ext.magics.screen import Screen
from jupyter_ext.magics.session import read_token

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from hakuriver.model.messages import Stream
    from jupyter_ext.magics.render import Rendered
    from jupyter_ext.magics.session import Session


def up(session: Session, options: argparse.Namespace) -> None:
    """Start a cluster on this machine, or find the one that runs, and connect to it."""
    # Imported here: it needs Linux, the other commands do not.
    from hakuriver import embedded  # noqa: PLC0415

    cluster = embedded.up(nodes=options.nodes)
    session.connect(cluster.url, cluster.token)
    _say(cluster.describe())


def down(session: Session, options: argparse.Namespace) -> None:  # noqa: ARG001 - all alike
    """Stop the cluster that `up` started."""
    from hakuriver import embedded  # noqa: PLC0415

    found = embedded_endpoint()
    stopped = embedded.down()
    if found is not None:
        session.leave(found[0])
    _say("The embedded cluster is down" if stopped else "No embedded cluster runs")


def connect(session: Session, options: argparse.Namespace) -> None:
    """Use another host from now on."""
    token = options.token
    if options.token_file is not None:
        token = read_token(Path(options.token_file))
    found = session.connect(options.url, token)
    names = ", ".join(node.hostname for node in found) or "none yet"
    _say(f"Connected to {options.url} (nodes: {names})")


def nodes(session: Session, options: argparse.Namespace) -> Rendered:  # noqa: ARG001
    """Return the table of nodes."""
    return table(node_table(session.client().nodes()))


def tasks(session: Session, options: argparse.Namespace) -> Rendered:
    """Return the table of tasks, newest first."""
    found = session.client().tasks(state=options.state, node=options.node, limit=options.limit)
    return table(task_table(found))


def status(session: Session, options: argparse.Namespace) -> Rendered:
    """Return the table of one task's properties."""
    return table(status_table(session.client().status(options.id)))


def logs(session: Session, options: argparse.Namespace) -> None:
    """Print what a task has written to one stream so far."""
    stream: Stream = "stderr" if options.stderr else "stdout"
    screen = Screen(lambda _, text: _show(text), hint="; see fewer with --tail N")
    for line in session.client().task(options.id).logs(stream, tail=options.tail):
        screen.add("stdout", line + "\n")
    screen.finish()
    screen.drain()


def kill(session: Session, options: argparse.Namespace) -> None:
    """Ask for a task's end."""
    _say(session.client().kill(options.id))


COMMANDS: dict[str, Callable[[Session, argparse.Namespace], Rendered | None]] = {
    "up": up,
    "down": down,
    "connect": connect,
    "nodes": nodes,
    "tasks": tasks,
    "status": status,
    "logs": logs,
    "kill": kill,
}


def _say(text: str) -> None:
    _show(text + "\n")


def _show(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
