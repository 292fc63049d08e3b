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
    from collections.abc import Coroutine, Iterable, Sequence

    from hakuriver.client.building import RerunOptions, RunOptions, Word
    from hakuriver.client.cluster import Cluster, TaskFilters
    from hakuriver.client.handles import AsyncBatch, AsyncTask, TaskPage
    from hakuriver.config import Config
    from hakuriver.model.submission import SubmitRequest
    from hakuriver.model.targets import Target
    from hakuriver.model.views import HealthView, KillBatchReply, NodeView, TaskView


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
        return self._portal.call(self._futures(self._client.submit_request(request)))

    def submit_many(self, requests: Iterable[SubmitRequest]) -> list[Batch]:
        """Submit up to 1,000 requests in one transaction; return a batch for each, in order.

        One that was refused is a batch without tasks, whose result raises why.
        """
        return self._portal.call(self._submit_many(requests))

    def rerun(self, task_id: str | int, **options: Unpack[RerunOptions]) -> Task:
        """Submit a new task with the command, the limits and the target of one that has ended.

        The host has erased the values of its variables: if it had any, ``env`` gives them again.

        Raises:
            NotFound: there is no such task.
            Conflict: it has not ended.
            InvalidRequest: it had variables, and ``env`` is missing.
            SubmissionRefused: its target cannot have a task.
        """
        return self._portal.call(self._future(self._client.rerun(task_id, **options)))

    def task(self, task_id: str | int) -> Task:
        """Take up a task that exists, whoever submitted it; raise `NotFound` if there is none."""
        return self._portal.call(self._future(self._client.task(task_id)))

    def batch(self, batch_id: str | int) -> Batch:
        """Take up a batch that exists, with all its tasks; raise `NotFound` if there is none."""
        return self._portal.call(self._futures(self._client.batch(batch_id)))

    def status(self, task_id: str | int) -> TaskView:
        """Return the task as it is now."""
        return self._portal.call(self._client.status(task_id))

    def tasks(self, **filters: Unpack[TaskFilters]) -> TaskPage:
        """Return a page of tasks that fit all conditions, newest first; see `TaskFilters`.

        Its `next_before`, given as `before`, asks for the page after it.
        """
        return self._portal.call(self._client.tasks(**filters))

    def nodes(self) -> list[NodeView]:
        """Return all nodes with their accounting."""
        return self._portal.call(self._client.nodes())

    def health(self, node: str | None = None) -> list[HealthView]:
        """Return the measured use of all nodes, or of one; `NotFound` for an unknown one."""
        return self._portal.call(self._client.health(node))

    def kill(self, task_id: str | int) -> str:
        """Ask the host to end the task; return what was done. `Conflict` if it has ended."""
        return self._portal.call(self._client.kill(task_id))

    def kill_batch(self, batch_id: str | int) -> KillBatchReply:
        """Ask the host to end all tasks of a batch; return those that will end.

        Raises:
            NotFound: there is no such batch.
            Conflict: all have ended already.
        """
        return self._portal.call(self._client.kill_batch(batch_id))

    def drain(self, node: str) -> NodeView:
        """Let a node get no new tasks until `resume`; those it has go on."""
        return self._portal.call(self._client.drain(node))

    def resume(self, node: str) -> NodeView:
        """Let a node get new tasks again."""
        return self._portal.call(self._client.resume(node))

    def forget(self, node: str) -> str:
        """Remove a node that is offline; return what was done. `Conflict` if it is online.

        Its pending tasks fail, and its other unfinished ones are lost.
        """
        return self._portal.call(self._client.forget(node))

    def close(self) -> None:
        """Close all connections; tasks go on, but unfinished futures fail with `Conflict`."""
        self._finalizer()

    async def _submit_many(self, requests: Iterable[SubmitRequest]) -> list[Batch]:
        return [await self._whole(handle) for handle in await self._client.submit_many(requests)]

    async def _futures(self, coming: Coroutine[object, object, AsyncBatch]) -> Batch:
        return await self._whole(await coming)

    async def _whole(self, handle: AsyncBatch) -> Batch:
        return Batch(handle, [Task(self, each, await each.watched()) for each in handle])

    async def _future(self, coming: Coroutine[object, object, AsyncTask]) -> Task:
        handle = await coming
        return Task(self, handle, await handle.watched())


def _close(portal: Portal, client: AsyncClient) -> None:
    with contextlib.suppress(Conflict):
        if portal.inside:
            portal.schedule(client.close())
        else:
            portal.call(client.close())
    portal.close()
