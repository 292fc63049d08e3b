"""`Client`: the asynchronous client's names for synchronous code.

It drives an `AsyncClient` on one background thread's loop and adds no behaviour of its own.
"""

from __future__ import annotations

import contextlib
import weakref
from typing import TYPE_CHECKING, Self, Unpack, overload

from hakuriver.client.aio import AsyncClient
from hakuriver.client.backoff import PATIENCE
from hakuriver.client.building import command_request, script_request
from hakuriver.client.futures import Batch, Task
from hakuriver.client.portal import Portal
from hakuriver.errors import Conflict

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Sequence

    from hakuriver.client.building import RunOptions, Word
    from hakuriver.client.cluster import Cluster
    from hakuriver.client.handles import AsyncTask, TaskPage
    from hakuriver.config import Config
    from hakuriver.model.submission import SubmitRequest
    from hakuriver.model.targets import Target
    from hakuriver.model.views import HealthView, NodeView, TaskView


class Client:
    """A client of one host; use it as a context manager, or leave it to the end of the program.

    Takes what `AsyncClient` takes, and raises what it raises. Safe to use from several threads,
    but not from the callbacks of its own tasks.
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
        self._client = AsyncClient(
            url, token=token, config=config, cluster=cluster, patience=patience
        )
        self._portal = Portal()
        # Runs at the end of the program too, so that no connection is left open there.
        self._finalizer = weakref.finalize(self, _close, self._portal, self._client)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.address}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def address(self) -> str:
        """Where the host is; holds no secret."""
        return self._client.address

    @property
    def aio(self) -> AsyncClient:
        """The asynchronous client below, which belongs to the portal's loop."""
        return self._client

    @property
    def portal(self) -> Portal:
        """The way to the client's own loop."""
        return self._portal

    @overload
    def run(
        self,
        command: Word | Sequence[Word],
        *,
        targets: None = None,
        **options: Unpack[RunOptions],
    ) -> Task: ...
    @overload
    def run(
        self,
        command: Word | Sequence[Word],
        *,
        targets: Iterable[str | Target],
        **options: Unpack[RunOptions],
    ) -> Batch: ...
    def run(
        self,
        command: Word | Sequence[Word],
        *,
        targets: Iterable[str | Target] | None = None,
        **options: Unpack[RunOptions],
    ) -> Task | Batch:
        """Submit a program with its arguments: one task, or with `targets` a batch.

        Returns as soon as the host has stored the tasks. `RunOptions` tells all options.

        Raises:
            InvalidRequest: a value that cannot be accepted.
            SubmissionRefused: no target got a task.
        """
        batch = self.submit_request(command_request(command, targets=targets, **options))
        return batch[0] if targets is None else batch

    @overload
    def run_script(
        self,
        script: str | bytes,
        arguments: Sequence[Word] = (),
        *,
        interpreter: str | Sequence[Word] | None = None,
        targets: None = None,
        **options: Unpack[RunOptions],
    ) -> Task: ...
    @overload
    def run_script(
        self,
        script: str | bytes,
        arguments: Sequence[Word] = (),
        *,
        interpreter: str | Sequence[Word] | None = None,
        targets: Iterable[str | Target],
        **options: Unpack[RunOptions],
    ) -> Batch: ...
    def run_script(
        self,
        script: str | bytes,
        arguments: Sequence[Word] = (),
        *,
        interpreter: str | Sequence[Word] | None = None,
        targets: Iterable[str | Target] | None = None,
        **options: Unpack[RunOptions],
    ) -> Task | Batch:
        """Submit the text of a script; it runs by `interpreter`, its ``#!`` line or Python.

        Everything else is as in `run`.
        """
        batch = self.submit_request(
            script_request(script, arguments, interpreter=interpreter, targets=targets, **options)
        )
        return batch[0] if targets is None else batch

    def submit_request(self, request: SubmitRequest) -> Batch:
        """Submit a whole request; always a batch, of at least one task."""
        return self._portal.call(self._submit(request))

    def task(self, task_id: str | int) -> Task:
        """Take up a task that exists, whoever submitted it; raise `NotFound` if there is none."""
        return self._portal.call(self._attach(task_id))

    def status(self, task_id: str | int) -> TaskView:
        """Return the task as it is now."""
        return self._portal.call(self._client.status(task_id))

    def tasks(
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
        return self._portal.call(
            self._client.tasks(
                state=state,
                node=node,
                batch=batch,
                name=name,
                owner=owner,
                limit=limit,
                before=before,
            )
        )

    def nodes(self) -> list[NodeView]:
        """Return all nodes with their accounting."""
        return self._portal.call(self._client.nodes())

    def health(self, node: str | None = None) -> list[HealthView]:
        """Return the measured use of all nodes, or of one; `NotFound` for an unknown one."""
        return self._portal.call(self._client.health(node))

    def kill(self, task_id: str | int) -> str:
        """Ask the host to end the task; return what was done. `Conflict` if it has ended."""
        return self._portal.call(self._client.kill(task_id))

    def close(self) -> None:
        """Close all connections; tasks go on, but unfinished futures fail with `Conflict`."""
        self._finalizer()

    async def _submit(self, request: SubmitRequest) -> Batch:
        batch = await self._client.submit_request(request)
        tasks = [await self._future(handle) for handle in batch]
        return Batch(batch.batch_id, tasks, batch.failed_targets)

    async def _attach(self, task_id: str | int) -> Task:
        return await self._future(await self._client.task(task_id))

    async def _future(self, handle: AsyncTask) -> Task:
        return Task(self, handle, await handle.watched())


def _close(portal: Portal, client: AsyncClient) -> None:
    with contextlib.suppress(Conflict):
        if portal.inside:
            portal.schedule(client.close())
        else:
            portal.call(client.close())
    portal.close()
