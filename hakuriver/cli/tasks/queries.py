"""What the client command shows and does about tasks and nodes that exist."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, cast

from hakuriver.cli.shared.common import tell
from hakuriver.cli.shared.settings import print_json
from hakuriver.cli.shared.tables import printable, show
from hakuriver.cli.tasks.arguments import NAME
from hakuriver.cli.tasks.show import (
    health_table,
    missing_capabilities,
    node_table,
    status_table,
    task_table,
    version_notes,
)
from hakuriver.client.logs import follow_bytes, read_bytes
from hakuriver.client.portal import Drain
from hakuriver.model.views import TaskList

if TYPE_CHECKING:
    import argparse

    from hakuriver.client.cluster import TaskFilters
    from hakuriver.client.sync import Client
    from hakuriver.model.messages import Stream


def list_nodes(client: Client, options: argparse.Namespace) -> int:
    """Show all nodes."""
    nodes = client.nodes()
    if options.json:
        print_json({"nodes": nodes})
    else:
        show(node_table(nodes))
        for note in version_notes(nodes):
            print(printable(note))
    return 0


def health(client: Client, options: argparse.Namespace) -> int:
    """Show how busy the nodes are, and what they cannot enforce."""
    nodes = client.health(options.health or None)
    if options.json:
        print_json({"nodes": nodes})
        return 0
    show(health_table(nodes, client.nodes()))
    for node in nodes:
        for missing in missing_capabilities(node.capabilities):
            print(f"{node.hostname} ({node.launcher}) does not enforce: {missing}")
    return 0


def list_tasks(client: Client, options: argparse.Namespace) -> int:
    """Show the newest tasks that fit the filters."""
    page = client.tasks(**filters_of(options))
    if options.json:
        print_json(TaskList(list(page), page.next_before))
        return 0
    show(task_table(page))
    if page.next_before is not None:
        tell(NAME, f"there are more; go on with --before {page.next_before}")
    return 0


def filters_of(options: argparse.Namespace) -> TaskFilters:
    """Return which tasks are wanted."""
    return {
        "state": options.state,
        "node": options.node,
        "batch": options.batch,
        "name": options.name or None,
        "mine": options.mine,
        "limit": options.limit,
        "before": options.before,
    }


def status(client: Client, options: argparse.Namespace) -> int:
    """Show all that is known of a task."""
    task = client.status(options.status)
    if options.json:
        print_json(task)
    else:
        show(status_table(task))
    return 0


def logs(client: Client, options: argparse.Namespace) -> int:
    """Write a task's log to stdout, byte for byte."""
    cluster, task_id = client.aio.cluster, cast("str", options.logs)
    stream: Stream = "stderr" if options.stderr else "stdout"
    read = follow_bytes if options.follow else read_bytes
    with Drain(client.portal, lambda: read(cluster, task_id, stream, tail=options.tail)) as chunks:
        if options.json:
            text = b"".join(chunks).decode("utf-8", "replace")
            print_json({"task_id": task_id, "stream": stream, "text": text})
            return 0
        for chunk in chunks:
            sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
    return 0


def kill(client: Client, options: argparse.Namespace) -> int:
    """Ask for a task's end."""
    message = client.kill(options.kill)
    return _answer(options, {"message": message}, message)


def kill_batch(client: Client, options: argparse.Namespace) -> int:
    """Ask for the end of all tasks of a batch; tell each."""
    reply = client.kill_batch(options.kill_batch)
    ends = (f"task {task_id} will end" for task_id in reply.task_ids)
    return _answer(options, reply, reply.message, *ends)


def drain(client: Client, options: argparse.Namespace) -> int:
    """Give a node no new tasks."""
    node = client.drain(options.drain)
    words = f"{node.hostname} gets no new tasks; {node.cores_in_use} of its cores are in use"
    return _answer(options, node, words)


def resume(client: Client, options: argparse.Namespace) -> int:
    """Give a node tasks again."""
    node = client.resume(options.resume)
    return _answer(options, node, f"{node.hostname} gets new tasks again")


def forget(client: Client, options: argparse.Namespace) -> int:
    """Remove a node that is offline."""
    message = client.forget(options.forget)
    return _answer(options, {"message": message}, message)


def _answer(options: argparse.Namespace, document: object, *lines: str) -> int:
    """Say what was done: as JSON where that is wanted, else as lines."""
    if options.json:
        print_json(document)
        return 0
    for line in lines:
        print(printable(line))
    return 0
