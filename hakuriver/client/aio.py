"""`AsyncClient`: submit, watch, list and kill tasks from asynchronous code.

Ends of tasks are pushed by the host over one stream; nothing here polls.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Self, Unpack, overload

from hakuriver.client.backoff import PATIENCE
from hakuriver.client.building import check, command_request, script_request
from hakuriver.client.endpoint import resolve
from hakuriver.client.handles import AsyncBatch, AsyncTask, TaskPage
from hakuriver.client.placeholder import pending_views
from hakuriver.client.remote import HttpCluster
from hakuriver.client.watch import Watch, Watcher

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from hakuriver.client.building import RunOptions, Word
    from hakuriver.client.cluster import Cluster
    from hakuriver.config import Config
    from hakuriver.model.submission import SubmitRequest
    from hakuriver.model.targets import Target
    from hakuriver.model.views import HealthView, NodeView, TaskView


class AsyncClient:
    """A client of one host, for one event loop; use it as an asynchronous context manager.

    Args:
        url: the host's address; by default what the environment, the configuration file or the
            running embedded cluster say, in this order.
        token: the client's token; by default the one that goes with the address.
        config: a configuration, or its file, instead of the default one.
        cluster: another way to reach machines than HTTP.
        patience: seconds for which a host that went away is awaited before waits fail.

    Raises:
        ConfigError: a configuration file cannot be used.
        HostUnreachable: nothing says where a host is.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        token: str | None = None,
        config: Config | str | os.PathLike[str] | None = None,
        cluster: Cluster | None = None,
        patience: float = PATIENCE,
    ) -> None:
        self._embedded = False
        if cluster is None:
            endpoint = resolve(url, token=token, config=config)
            cluster = HttpCluster.at(endpoint)
            self._embedded = endpoint.embedded
        self.cluster = cluster
        self._watcher = Watcher(cluster, patience=patience)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.address}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def address(self) -> str:
        """Where the host is; holds no secret."""
        return self.cluster.address

    @overload
    async def run(
        self,
        command: Word | Sequence[Word],
        *,
        targets: None = None,
        **options: Unpack[RunOptions],
    ) -> AsyncTask: ...
    @overload
    async def run(
        self,
        command: Word | Sequence[Word],
        *,
        targets: Iterable[str | Target],
        **options: Unpack[RunOptions],
    ) -> AsyncBatch: ...
    async def run(
        self,
        command: Word | Sequence[Word],
        *,
        targets: Iterable[str | Target] | None = None,
        **options: Unpack[RunOptions],
    ) -> AsyncTask | AsyncBatch:
        """Submit a program with its arguments: one task, or with `targets` a batch.

        Returns as soon as the host has stored the tasks. `RunOptions` tells all options.

        Raises:
            InvalidRequest: a value that cannot be accepted.
            SubmissionRefused: no target got a task.
        """
        batch = await self.submit_request(command_request(command, targets=targets, **options))
        return batch[0] if targets is None else batch

    @overload
    async def run_script(
        self,
        script: str | bytes,
        arguments: Sequence[Word] = (),
        *,
        interpreter: str | Sequence[Word] | None = None,
        targets: None = None,
        **options: Unpack[RunOptions],
    ) -> AsyncTask: ...
    @overload
    async def run_script(
        self,
        script: str | bytes,
        arguments: Sequence[Word] = (),
        *,
        interpreter: str | Sequence[Word] | None = None,
        targets: Iterable[str | Target],
        **options: Unpack[RunOptions],
    ) -> AsyncBatch: ...
    async def run_script(
        self,
        script: str | bytes,
        arguments: Sequence[Word] = (),
        *,
        interpreter: str | Sequence[Word] | None = None,
        targets: Iterable[str | Target] | None = None,
        **options: Unpack[RunOptions],
    ) -> AsyncTask | AsyncBatch:
        """Submit the text of a script; it runs by `interpreter`, its ``#!`` line or Python.

        Everything else is as in `run`.
        """
        request = script_request(
            script, arguments, interpreter=interpreter, targets=targets, **options
        )
        batch = await self.submit_request(request)
        return batch[0] if targets is None else batch

    async def submit_request(self, request: SubmitRequest) -> AsyncBatch:
        """Submit a whole request; always a batch, of at least one task.

        On the embedded cluster, which runs on this machine, a task without a working directory
        runs in the caller's.
        """
        request = check(request)
        if request.working_directory is None and self._embedded:
            request.working_directory = _here()
        async with self._watcher.submitting():
            reply = await self.cluster.submit(request)
            watches = [self._watcher.add(view) for view in pending_views(request, reply)]
        tasks = [AsyncTask(self._watcher, watch) for watch in watches]
        return AsyncBatch(reply.batch_id, tasks, reply.failed_targets)

    async def task(self, task_id: str | int) -> AsyncTask:
        """Take up a task that exists, whoever submitted it; raise `NotFound` if there is none."""
        return AsyncTask(self._watcher, Watch(await self.status(task_id)))

    async def status(self, task_id: str | int) -> TaskView:
        """Return the task as it is now."""
        return await self.cluster.status(str(task_id))

    async def tasks(
        self,
        *,
        state: str | None = None,
        node: str | None = None,
        batch: str | int | None = None,
        name: str | None = None,
        owner: str | None = None,
        limit: int = 50,
        before: str | int | None = None,
    ) -> TaskPage:
        """Return a page of at most `limit` tasks that fit all conditions, newest first.

        Its `next_before`, given as `before`, asks for the page after it.
        """
        page = await self.cluster.tasks(
            state=state,
            node=node,
            batch=None if batch is None else str(batch),
            name=name,
            owner=owner,
            limit=limit,
            before=None if before is None else str(before),
        )
        return TaskPage(page)

    async def nodes(self) -> list[NodeView]:
        """Return all nodes with their accounting."""
        return await self.cluster.nodes()

    async def health(self, node: str | None = None) -> list[HealthView]:
        """Return the measured use of all nodes, or of one; `NotFound` for an unknown one."""
        return await self.cluster.health(node)

    async def kill(self, task_id: str | int) -> str:
        """Ask the host to end the task; return what was done. `Conflict` if it has ended."""
        return await self.cluster.kill(str(task_id))

    async def close(self) -> None:
        """Close all connections; tasks go on, but waits for them end with `Conflict`."""
        await self._watcher.close()
        await self.cluster.close()


def _here() -> str | None:
    """Return the caller's directory, None if it is gone."""
    try:
        return str(os.getcwd())  # noqa: PTH109
    except OSError:
        return None
