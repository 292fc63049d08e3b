"""The few things that tasks, batches, commands and magics need of a group of machines.

`Cluster` is the seam: HTTP to a HakuRiver host is one way to provide it, see
`hakuriver.client.remote`. All ids are decimal strings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager

    from hakuriver.model.messages import Stream
    from hakuriver.model.submission import SubmitRequest
    from hakuriver.model.views import Event, HealthView, LogLine, NodeView, SubmitReply, TaskList
    from hakuriver.model.views import TaskView as View


class Cluster(Protocol):
    """A group of machines that runs tasks; every method raises `HakuRiverError` on failure."""

    @property
    def address(self) -> str:
        """Where it is, for messages to people; holds no secret."""
        ...

    async def submit(self, request: SubmitRequest) -> SubmitReply:
        """Create the tasks; those whose id is answered are stored durably.

        Raises:
            SubmissionRefused: no task was created.
        """
        ...

    async def status(self, task_id: str) -> View:
        """Return the task as it is now; raise `NotFound` if there is none."""
        ...

    async def tasks(
        self,
        *,
        state: str | None = None,
        node: str | None = None,
        batch: str | None = None,
        name: str | None = None,
        owner: str | None = None,
        limit: int | None = None,
        before: str | None = None,
    ) -> TaskList:
        """Return a page of tasks, newest first, that fit all conditions given."""
        ...

    async def kill(self, task_id: str) -> str:
        """Ask for the task's end; return what was done about it.

        Raises:
            NotFound: there is no such task.
            Conflict: it has ended already.
        """
        ...

    async def nodes(self) -> list[NodeView]:
        """Return all nodes with their accounting."""
        ...

    async def health(self, node: str | None = None) -> list[HealthView]:
        """Return the measured use of all nodes, or of one; raise `NotFound` for an unknown one."""
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
