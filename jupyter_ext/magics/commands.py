"""What ``%hakuriver COMMAND`` does: each function is one command and returns what to display."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from hakuriver.cli.tasks.show import node_table, status_table, task_table
from hakuriver.client.endpoint import embedded_endpoint
from jupyter_ext.magics import running
from jupyter_ext.magics.render import table
from jupyter_ext.magics.session import read_token

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from hakuriver.client.futures import Batch, Task
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
    found = session.client().tasks(
        state=options.state, node=options.node, mine=options.mine, limit=options.limit
    )
    return table(task_table(found))


def status(session: Session, options: argparse.Namespace) -> Rendered:
    """Return the table of one task's properties."""
    return table(status_table(session.client().status(options.id)))


def kill(session: Session, options: argparse.Namespace) -> None:
    """Ask for a task's end."""
    _say(session.client().kill(options.id))


def kill_batch(session: Session, options: argparse.Namespace) -> None:
    """Ask for the end of all tasks of a batch."""
    _say(session.client().kill_batch(options.id).message)


def drain(session: Session, options: argparse.Namespace) -> None:
    """Let a node get no new tasks."""
    node = session.client().drain(options.node)
    _say(f"{node.hostname} gets no new tasks until %hakuriver resume {node.hostname}")


def resume(session: Session, options: argparse.Namespace) -> None:
    """Let a node get new tasks again."""
    _say(f"{session.client().resume(options.node).hostname} gets new tasks again")


def forget(session: Session, options: argparse.Namespace) -> None:
    """Remove a node that is offline."""
    _say(session.client().forget(options.node))


def last(session: Session, options: argparse.Namespace) -> Task | Batch:  # noqa: ARG001
    """Return the last future of this session."""
    return session.last_future()


COMMANDS: dict[str, Callable[[Session, argparse.Namespace], object]] = {
    "up": up,
    "down": down,
    "connect": connect,
    "nodes": nodes,
    "tasks": tasks,
    "status": status,
    "logs": running.logs,
    "kill": kill,
    "kill-batch": kill_batch,
    "drain": drain,
    "resume": resume,
    "forget": forget,
    "submit": running.submit,
    "attach": running.attach,
    "wait": running.wait,
    "rerun": running.rerun,
    "last": last,
}


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
