"""The few things that tasks, batches, commands and magics need of a group of machines.

`Cluster` is the seam: HTTP to a HakuRiver host is one way to provide it, see
`hakuriver.client.remote`. All ids are decimal strings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypedDict, Unpack

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from contextlib import AbstractAsyncContextManager

    from hakuriver.model.messages import Stream
    from hakuriver.model.submission import RerunRequest, SubmitRequest
    from hakuriver.model.views import (
        Event,
        HealthView,
        KillBatchReply,
        LogLine,
        NodeView,
        SubmitManyReply,
        SubmitReply,
        TaskList,
    )
    from hakuriver.model.views import TaskView as View


class TaskFilters(TypedDict, total=False):
    """Which tasks a page holds: those that fit all conditions given, newest first.

    ``state`` is one of `TaskState`, ``mine`` means those of the asking token's name. A page has
    at most ``limit`` tasks (default 50), all older than the task ``before``.
    """

    state: str | None
    node: str | None
    batch: str | int | None
    name: str | None
    owner: str | None
    mine: bool
    limit: int
    before: str | int | None


class Cluster(Protocol):
    """A group of machines that runs tasks; every method raises `HakuRiverError` on failure."""

    @property
    def address(self) -> str:
        """Where it is, for messages to people; holds no secret."""
        ...

    async def submit(self, request: SubmitRequest) -> SubmitReply:
        """Create the tasks; those whose id is answered are stored durably.

        With an idempotency key the request is sent again when its answer is lost.

        Raises:
            SubmissionRefused: no task was created.
            Conflict: the key was used for other content.
        """
        ...

    async def submit_many(self, requests: Sequence[SubmitRequest]) -> SubmitManyReply:
        """Create the tasks of all requests in one transaction; one answer for each."""
        ...

    async def rerun(self, task_id: str, request: RerunRequest) -> SubmitReply:
        """Create one new task with what the ended task `task_id` had.

        Raises:
            NotFound: there is no such task.
            Conflict: it has not ended.
            InvalidRequest: it had variables, whose values are gone and must be given again.
        """
        ...

    async def status(self, task_id: str) -> View:
        """Return the task as it is now; raise `NotFound` if there is none."""
        ...

    async def tasks(self, **filters: Unpack[TaskFilters]) -> TaskList:
        """Return a page of tasks, newest first, that fit all conditions given."""
        ...

    async def kill(self, task_id: str) -> str:
        """Ask for the task's end; return what was done about it.

        Raises:
            NotFound: there is no such task.
            Conflict: it has ended already.
        """
        ...

    async def kill_batch(self, batch_id: str) -> KillBatchReply:
        """Ask for the end of all tasks of a batch; return those that will end.

        Raises:
            NotFound: there is no such batch.
            Conflict: all have ended already.
        """
        ...

    async def nodes(self) -> list[NodeView]:
        """Return all nodes with their accounting."""
        ...

    async def health(self, node: str | None = None) -> list[HealthView]:
        """Return the measured use of all nodes, or of one; raise `NotFound` for an unknown one."""
        ...

    async def drain(self, node: str) -> NodeView:
        """Let a node get no new tasks; those it has go on."""
        ...

    async def resume(self, node: str) -> NodeView:
        """Let a node get new tasks again."""
        ...

    async def forget(self, node: str) -> str:
        """Remove a node that is offline; return what was done. `Conflict` if it is online."""
        ...

    def events(self, after: int | None = None) -> AbstractAsyncContextManager[AsyncIterator[Event]]:
        """Open the stream of changes after revision `after`, or of those from now on."""
        ...

    def follow_log(
        self, task_id: str, stream: Stream, *, offset: int = 0, tail: int | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[LogLine]]:
        """Open a log from byte `offset`, or from its last `tail` lines, and go on to its end."""
        ...

    def read_log(
        self, task_id: str, stream: Stream, *, tail: int | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Open what a log holds now, or its last `tail` lines, as bytes."""
        ...

    async def close(self) -> None:
        """Close all connections; streams that are open end."""
        ...
