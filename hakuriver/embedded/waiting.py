"""Waiting, by the host's own events, for nodes to come and for tasks to go.

The functions block; they may be called where an event loop runs, as in a notebook's kernel.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

from hakuriver.client.endpoint import Endpoint
from hakuriver.client.remote import HttpCluster
from hakuriver.embedded import files
from hakuriver.errors import Conflict, NotFound, StartError
from hakuriver.model.nodes import NodeStatus
from hakuriver.model.tasks import FINAL, TaskState

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

_START_SECONDS = 20.0
_KILL_SECONDS = 15.0
_PAGE = 1000


def until_online(url: str, token: str, names: Sequence[str]) -> None:
    """Return when all nodes are online; raise `StartError` with the last words of a late one."""
    run(_until_online(HttpCluster.at(Endpoint(url, token)), set(names)))


def forget_nodes(url: str, token: str, names: Sequence[str]) -> None:
    """Remove those nodes that the host knows and that are not linked up."""
    if names:
        run(_forget_nodes(HttpCluster.at(Endpoint(url, token)), names))


def kill_tasks(url: str, token: str) -> None:
    """Kill all tasks that have not ended, and return when they are gone.

    Raises:
        HakuRiverError: the host does not answer as it should.
        TimeoutError: some were not gone in time.
    """
    run(_kill_tasks(HttpCluster.at(Endpoint(url, token))))


def run(work: Coroutine[None, None, None]) -> None:
    """Run `work` in a loop of its own, in a thread of its own."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, work).result()


async def _until_online(cluster: HttpCluster, names: set[str]) -> None:
    try:
        async with asyncio.timeout(_START_SECONDS), cluster.events(0) as events:
            async for event in events:
                if event.node is not None and event.node.status is NodeStatus.ONLINE:
                    names.discard(event.node.hostname)
                if not names:
                    return
    except TimeoutError:
        late = min(names)
        raise StartError(f"{late} did not link up: {files.last_words(late)}") from None
    finally:
        await cluster.close()


async def _forget_nodes(cluster: HttpCluster, names: Sequence[str]) -> None:
    try:
        for name in names:
            with suppress(Conflict, NotFound):
                await cluster.forget(name)
    finally:
        await cluster.close()


async def _kill_tasks(cluster: HttpCluster) -> None:
    try:
        async with asyncio.timeout(_KILL_SECONDS), cluster.events() as events:
            while waiting := await _kill_all(cluster):
                while waiting:
                    event = await anext(events)
                    if event.task is not None and event.task.status in FINAL:
                        waiting.discard(event.task.task_id)
    finally:
        await cluster.close()


async def _kill_all(cluster: HttpCluster) -> set[str]:
    """Ask for the end of unfinished tasks, a page a state; return those that were still there."""
    waiting: set[str] = set()
    for state in (TaskState.PENDING, TaskState.ASSIGNING, TaskState.RUNNING):
        page = await cluster.tasks(state=state, limit=_PAGE)
        for task in page.tasks:
            try:
                await cluster.kill(task.task_id)
            except (Conflict, NotFound):
                continue
            waiting.add(task.task_id)
    return waiting
