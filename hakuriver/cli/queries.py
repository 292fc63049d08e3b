"""What the client command shows and does about tasks and nodes that exist."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, cast

import msgspec

from hakuriver.cli.show import (
    health_table,
    missing_capabilities,
    node_table,
    status_table,
    task_table,
)
from hakuriver.cli.tables import show
from hakuriver.client.logs import follow_bytes, read_bytes
from hakuriver.client.portal import Drain
from hakuriver.model.views import TaskList

if TYPE_CHECKING:
    import argparse

    from hakuriver.client.sync import Client
    from hakuriver.model.messages import Stream


def print_json(value: object) -> None:
    """Print `value` as JSON, indented for people."""
    text = msgspec.json.format(msgspec.json.encode(value), indent=2)
    sys.stdout.buffer.write(text + b"\n")


def list_nodes(client: Client, options: argparse.Namespace) -> int:
    """Show all nodes."""
    nodes = client.nodes()
    if options.json:
        print_json({"nodes": nodes})
    else:
        show(node_table(nodes))
    return 0


def health(client: Client, options: argparse.Namespace) -> int:
    """Show how busy the nodes are, and what they cannot enforce."""
    nodes = client.health(options.health or None)
    if options.json:
        print_json({"nodes": nodes})
        return 0
    show(health_table(nodes))
    for node in nodes:
        for missing in missing_capabilities(node.capabilities):
            print(f"{node.hostname} ({node.launcher}) does not enforce: {missing}")
    return 0


def list_tasks(client: Client, options: argparse.Namespace) -> int:
    """Show the newest tasks that fit the filters."""
    page = client.tasks(
        state=options.state,
        node=options.node,
        batch=options.batch,
        name=options.name or None,
        limit=options.limit,
    )
    if options.json:
        print_json(TaskList(list(page), page.next_before))
    else:
        show(task_table(page))
    return 0


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
    if options.json:
        print_json({"message": message})
    else:
        print(message)
    return 0
