"""`AsyncClient`: submit, watch, list and kill tasks from asynchronous code.

Ends of tasks are pushed by the host over one stream; nothing here polls.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import aclosing
from typing import TYPE_CHECKING, Self, Unpack, overload

from hakuriver.client.backoff import PATIENCE
from hakuriver.client.building import command_request, ready, rerun_request, script_request
from hakuriver.client.endpoint import resolve
from hakuriver.client.handles import AsyncBatch, AsyncTask, TaskPage
from hakuriver.client.placeholder import pending_views
from hakuriver.client.remote import HttpCluster
from hakuriver.client.replies import error_of
from hakuriver.client.watch import Watch, Watcher
from hakuriver.errors import HostFault, InvalidRequest, NotFound
from hakuriver.model.submission import MAX_MANY

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Sequence

    from hakuriver.client.building import RerunOptions, RunOptions, Word
    from hakuriver.client.cluster import Cluster, TaskFilters
    from hakuriver.config import Config
    from hakuriver.model.submission import SubmitRequest
    from hakuriver.model.targets import Target
    from hakuriver.model.views import (
        HealthView,
        KillBatchReply,
        NodeView,
        SubmitAnswer,
        SubmitReply,
        TaskView,
    )

# So soon the news of what was just submitted is here, in seconds.
_NEWS = 0.05
_PAGE = 1000


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

    @property
    def watcher(self) -> Watcher:
        """What keeps the tasks' states up to date, and knows when the host is gone."""
        return self._watcher

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
        runs in the caller's. When the host's answer is lost, the request is sent again; that
        creates its tasks once.
        """
        named = request.idempotency_key is not None
        request = self._ready(request)
        async with self._watcher.adding():
            batch = self._batch(request, await self.cluster.submit(request))
            if named:
                await self._renew([batch])
            return batch

    async def submit_many(self, requests: Iterable[SubmitRequest]) -> list[AsyncBatch]:
        """Submit up to 1,000 requests in one transaction; return a batch for each, in order.

        One that was refused is a batch without tasks, whose result raises why. Everything else
        is as in `submit_request`.
        """
        asked = list(requests)
        ready_ones = [self._ready(request) for request in asked]
        if not ready_ones:
            return []
        if len(ready_ones) > MAX_MANY:
            raise InvalidRequest("requests", f"are more than {MAX_MANY}")
        async with self._watcher.adding():
            answers = (await self.cluster.submit_many(ready_ones)).answers
            if len(answers) != len(ready_ones):
                raise HostFault(f"the host at {self.address} did not answer every submission")
            batches = list(map(self._answered, ready_ones, answers))
            named = [
                batch
                for request, batch in zip(asked, batches, strict=True)
                if request.idempotency_key is not None and batch
            ]
            await self._renew(named)
            return batches

    async def rerun(self, task_id: str | int, **options: Unpack[RerunOptions]) -> AsyncTask:
        """Submit a new task with the command, the limits and the target of one that has ended.

        The host has erased the values of its variables: if it had any, ``env`` gives them again.

        Raises:
            NotFound: there is no such task.
            Conflict: it has not ended.
            InvalidRequest: it had variables, and ``env`` is missing.
            SubmissionRefused: its target cannot have a task.
        """
        request = rerun_request(**options)
        async with self._watcher.adding():
            reply = await self.cluster.rerun(str(task_id), request)
            watch = self._watcher.add(await self.status(reply.task_ids[0]))
        return AsyncTask(self._watcher, watch)

    async def task(self, task_id: str | int) -> AsyncTask:
        """Take up a task that exists, whoever submitted it; raise `NotFound` if there is none."""
        return AsyncTask(self._watcher, Watch(await self.status(task_id)))

    async def batch(self, batch_id: str | int) -> AsyncBatch:
        """Take up a batch that exists, with all its tasks; raise `NotFound` if there is none."""
        async with self._watcher.adding():
            views = await self._tasks_of(str(batch_id))
            tasks = [AsyncTask(self._watcher, self._watcher.add(view)) for view in views]
        return AsyncBatch(str(batch_id), tasks)

    async def status(self, task_id: str | int) -> TaskView:
        """Return the task as it is now."""
        return await self.cluster.status(str(task_id))

    async def tasks(self, **filters: Unpack[TaskFilters]) -> TaskPage:
        """Return a page of tasks that fit all conditions, newest first; see `TaskFilters`.

        Its `next_before`, given as `before`, asks for the page after it.
        """
        return TaskPage(await self.cluster.tasks(**filters))

    async def nodes(self) -> list[NodeView]:
        """Return all nodes with their accounting."""
        return await self.cluster.nodes()

    async def health(self, node: str | None = None) -> list[HealthView]:
        """Return the measured use of all nodes, or of one; `NotFound` for an unknown one."""
        return await self.cluster.health(node)

    async def kill(self, task_id: str | int) -> str:
        """Ask the host to end the task; return what was done. `Conflict` if it has ended."""
        return await self.cluster.kill(str(task_id))

    async def kill_batch(self, batch_id: str | int) -> KillBatchReply:
        """Ask the host to end all tasks of a batch; return those that will end.

        Raises:
            NotFound: there is no such batch.
            Conflict: all have ended already.
        """
        return await self.cluster.kill_batch(str(batch_id))

    async def drain(self, node: str) -> NodeView:
        """Let a node get no new tasks until `resume`; those it has go on."""
        return await self.cluster.drain(node)

    async def resume(self, node: str) -> NodeView:
        """Let a node get new tasks again."""
        return await self.cluster.resume(node)

    async def forget(self, node: str) -> str:
        """Remove a node that is offline; return what was done. `Conflict` if it is online.

        Its pending tasks fail, and its other unfinished ones are lost.
        """
        return await self.cluster.forget(node)

    async def close(self) -> None:
        """Close all connections; tasks go on, but waits for them end with `Conflict`."""
        await self._watcher.close()
        await self.cluster.close()

    def _ready(self, request: SubmitRequest) -> SubmitRequest:
        request = ready(request)
        if request.working_directory is None and self._embedded:
            request.working_directory = _here()
        return request

    def _batch(self, request: SubmitRequest, reply: SubmitReply) -> AsyncBatch:
        watches = [self._watcher.add(view) for view in pending_views(request, reply)]
        tasks = [AsyncTask(self._watcher, watch) for watch in watches]
        return AsyncBatch(reply.batch_id, tasks, reply.failed_targets, joined=reply.joined)

    async def _renew(self, batches: Sequence[AsyncBatch]) -> None:
        """Ask how tasks are of which no news came: by its caller's key one may be of long ago."""
        if len(batches) > 1:
            # Those that are new are heard of by then; asking after each would take longer.
            await asyncio.sleep(_NEWS)
        for batch in batches:
            if any(task.view.rev == 0 for task in batch):
                await self._renew_one([int(task.task_id) for task in batch], batch.batch_id)

    async def _renew_one(self, ids: Sequence[int], batch_id: str) -> None:
        # A submission's ids follow each other: what has joined its batch is not asked for.
        lowest, above = min(ids), str(max(ids) + 1)
        async with aclosing(self._newest_first(batch_id, len(ids), before=above)) as views:
            async for view in views:
                if int(view.task_id) >= lowest:
                    self._watcher.renew(view)
                if int(view.task_id) <= lowest:
                    break

    def _answered(self, request: SubmitRequest, answer: SubmitAnswer) -> AsyncBatch:
        """Return the batch for one of many submissions."""
        if answer.reply is not None:
            return self._batch(request, answer.reply)
        if answer.error is None:
            raise HostFault(f"the host at {self.address} left a submission without an answer")
        failed = answer.error.failed_targets
        return AsyncBatch("", (), failed, error=error_of(self.address, answer.error))

    async def _tasks_of(self, batch_id: str) -> list[TaskView]:
        """Return all tasks of a batch in the order of their submission."""
        views = [view async for view in self._newest_first(batch_id, _PAGE)]
        if not views:
            raise NotFound(f"no batch {batch_id}")
        return views[::-1]

    async def _newest_first(
        self, batch_id: str, limit: int, *, before: str | None = None
    ) -> AsyncGenerator[TaskView]:
        """Give the tasks of a batch, those before an id, by pages that may end before `limit`."""
        while True:
            page = await self.cluster.tasks(batch=batch_id, limit=limit, before=before)
            for view in page.tasks:
                yield view
            before = page.next_before
            if before is None:
                return


def _here() -> str | None:
    """Return the caller's directory, None if it is gone."""
    try:
        return str(os.getcwd())  # noqa: PTH109
    except OSError:
        return None
