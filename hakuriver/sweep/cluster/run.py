"""Running the combinations of a sweep as tasks of a cluster.

Each is a task of its own, whose name is the sweep's id, and all of them are one batch. What is to
be submitted is on the disk before it is, with the key that makes a repetition harmless, and its id
as soon as it is known: who resumes takes up the tasks that went on meanwhile, and starts none
twice.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import aclosing, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Self

from hakuriver.client.building import RunOptions, command_request
from hakuriver.client.follow import AsyncOutput, follow_async
from hakuriver.client.outcome import is_final
from hakuriver.client.portal import Drain
from hakuriver.client.sync import Client
from hakuriver.errors import Conflict, HakuRiverError, InvalidRequest, NotFound
from hakuriver.model.tasks import TaskState
from hakuriver.sweep.cluster.lanes import Lanes, lanes_of
from hakuriver.sweep.cluster.options import command_of, variables_of
from hakuriver.sweep.job import Job
from hakuriver.sweep.journal import Attempt, Attempts
from hakuriver.sweep.records import Ended, Started

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Iterable, Iterator
    from pathlib import Path

    from hakuriver.client.aio import AsyncClient
    from hakuriver.client.handles import AsyncBatch, AsyncTask
    from hakuriver.model.submission import SubmitRequest
    from hakuriver.model.views import TaskView
    from hakuriver.sweep.cluster.options import ClusterOptions
    from hakuriver.sweep.journal import Journal
    from hakuriver.sweep.limits import Limits
    from hakuriver.sweep.plan import Plan
    from hakuriver.sweep.records import Event, Output
    from hakuriver.sweep.targets import Program

_AHEAD = 256
_TOGETHER = 100
#: Seconds for the answer to what was being submitted when it was stopped.
_LAST_SECONDS = 5.0


@dataclass(slots=True, eq=False)
class _Flight:
    """A task of the sweep, and what it has written so far."""

    job: Job
    target: str
    #: How often it was tried in this pass.
    tries: int = 1
    task_id: str = ""


class ClusterRun:
    """One pass over combinations of a plan, as `LocalRun` is; the tasks go on when it ends."""

    def __init__(
        self,
        plan: Plan,
        program: Program,
        limits: Limits,
        sweep_id: str,
        *,
        options: ClusterOptions,
        journal: Journal,
        attempts: Attempts,
    ) -> None:
        self._plan = plan
        self._program = program
        self._limits = limits
        self._sweep_id = sweep_id
        self._options = options
        self._journal = journal
        self._attempts = attempts
        #: None at the end, whatever the reason.
        self._events: asyncio.Queue[Event | None] = asyncio.Queue(_AHEAD)
        self._error: BaseException | None = None
        self._lanes = Lanes(())
        self._loop: asyncio.AbstractEventLoop | None = None
        self._again: deque[tuple[int, int]] = deque()
        self._room = asyncio.Event()
        self._flights: dict[int, _Flight] = {}
        #: The batch that all its tasks belong to; the first of them begins it.
        self._batch_id: str | None = None
        self._failures = 0
        self._too_many = False
        #: Whether it was stopped before all had run, on request or by failures.
        self.stopped = False
        self._client = Client(config=options.config)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the client; tasks go on."""
        self._client.close()

    def stop(self) -> None:
        """Submit no more and wait no longer; what was submitted goes on."""
        self.stopped = True
        loop = self._loop
        if loop is not None:
            # Of all ways to the loop this one takes no lock, which a signal may find taken.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._wake_reader)

    def events(self, indexes: Iterable[int]) -> Generator[Event]:
        """Run the combinations of these numbers, and tell what happens.

        Raises:
            HakuRiverError: the host is away for long, or takes no task any more.
        """
        if self.stopped:
            return
        waiting = iter(indexes)
        with Drain(self._client.portal, lambda: self._run(self._client.aio, waiting)) as events:
            yield from events

    async def _run(self, client: AsyncClient, indexes: Iterator[int]) -> AsyncGenerator[Event]:
        self._loop = asyncio.get_running_loop()
        self._lanes = lanes_of(self._options.on, await client.nodes(), self._options.cores)
        # Nobody joins the batch of another who has gone on with it meanwhile.
        earlier = await client.tasks(name=self._sweep_id, mine=True, limit=1)
        self._batch_id = earlier[0].batch_id if earlier else None
        if self.stopped:
            return
        worker = asyncio.create_task(self._work(client, indexes))
        try:
            while (event := await self._events.get()) is not None:
                yield event
                if self.stopped and not self._too_many:
                    break
            if self._too_many:
                await self._kill_all(client)
            if self._error is not None:
                raise self._error
        finally:
            worker.cancel()
            await asyncio.wait({worker})

    def _wake_reader(self) -> None:
        # Where it is full, the reader is awake.
        with suppress(asyncio.QueueFull):
            self._events.put_nowait(None)

    async def _work(self, client: AsyncClient, indexes: Iterator[int]) -> None:
        try:
            await self._all(client, indexes)
        except* Exception as failures:  # noqa: BLE001 - the reader of the events gets it
            self._error = _first(failures)
        await self._events.put(None)

    async def _all(self, client: AsyncClient, indexes: Iterator[int]) -> None:
        """Submit what there is room for, follow it, and so on until all have ended."""
        async with asyncio.TaskGroup() as group:
            held: tuple[int, int] | None = None
            while True:
                self._room.clear()
                flights: list[_Flight] = []
                while len(flights) < (1 if self._batch_id is None else _TOGETHER):
                    held = held or self._next_index(indexes)
                    flight = None if held is None else self._place(*held)
                    if flight is None:
                        break
                    held = None
                    flights.append(flight)
                for flight, task in await self._submit(client, flights):
                    group.create_task(self._follow(flight, task))
                if held is None and not flights and not self._flights and not self._again:
                    return
                if not flights:
                    await self._room.wait()

    def _next_index(self, indexes: Iterator[int]) -> tuple[int, int] | None:
        if self._again:
            return self._again.popleft()
        index = next(indexes, None)
        return None if index is None else (index, 1)

    def _place(self, index: int, tries: int) -> _Flight | None:
        """Give a combination a target, its old one if its task may exist already."""
        open_one = self._attempts.open.get(index)
        if open_one is not None:
            number, target = open_one.number, open_one.target
            self._lanes.at(target).waiting.add(index)
        else:
            lane = self._lanes.take(index)
            if lane is None:
                return None
            number, target = self._attempts.tried.get(index, 0) + 1, lane.target
        width = len(str(len(self._plan)))
        files = None
        if self._limits.out_dir is not None:
            stem = f"{index + 1:0{width}d}"
            files = (self._limits.out_dir / f"{stem}.out", self._limits.out_dir / f"{stem}.err")
        flight = _Flight(Job(index, number, "", files), target, tries)
        self._flights[index] = flight
        return flight

    async def _submit(
        self, client: AsyncClient, flights: list[_Flight]
    ) -> list[tuple[_Flight, AsyncTask]]:
        """Submit those that are not there yet; return all with their tasks."""
        found = [(flight, await self._known(client, flight)) for flight in flights]
        fresh = [flight for flight, task in found if task is None]
        placed = [(flight, task) for flight, task in found if task is not None]
        if not fresh:
            return placed
        for flight in fresh:
            line = {"q": flight.job.index, "attempt": flight.job.attempt, "target": flight.target}
            await asyncio.to_thread(self._journal.write, line, durable=flight is fresh[-1])
            self._attempts.tried[flight.job.index] = flight.job.attempt
            self._attempts.open[flight.job.index] = Attempt(flight.job.attempt, flight.target)
        submission = asyncio.ensure_future(
            client.submit_many([self._request(flight) for flight in fresh])
        )
        try:
            batches = await asyncio.shield(submission)
        except asyncio.CancelledError:
            # The host may take them all the same: whoever stops is to know of all there are.
            with suppress(HakuRiverError, TimeoutError):
                async with asyncio.timeout(_LAST_SECONDS):
                    self._note(fresh, await submission)
            raise
        placed += self._note(fresh, batches)
        for flight, batch in zip(fresh, batches, strict=True):
            if not batch:
                self._refused(flight, batch.error)
        return placed

    def _note(
        self, flights: list[_Flight], batches: list[AsyncBatch]
    ) -> list[tuple[_Flight, AsyncTask]]:
        """Write down the ids of the tasks that the host has made, and return them."""
        made = [(flight, batch[0]) for flight, batch in zip(flights, batches, strict=True) if batch]
        for flight, task in made:
            self._journal.write({"i": flight.job.index, "task_id": task.task_id})
        if made and self._batch_id is None:
            self._batch_id = made[0][1].batch_id
        return made

    async def _known(self, client: AsyncClient, flight: _Flight) -> AsyncTask | None:
        """Return the task of an earlier pass, if it has its id and still exists."""
        open_one = self._attempts.open.get(flight.job.index)
        if open_one is None or not open_one.task_id:
            return None
        with suppress(NotFound):
            task = await client.task(open_one.task_id)
            if not is_final(task.view) or task.view.status is TaskState.COMPLETED:
                return task
        # It has failed meanwhile, or nobody knows it any more.
        flight.job.attempt += 1
        return None

    def _request(self, flight: _Flight) -> SubmitRequest:
        options, job = self._options, flight.job
        arguments = self._plan[job.index].arguments
        more: RunOptions = {
            "target": flight.target,
            "cores": options.cores,
            "memory": options.memory,
            "time_limit": self._limits.timeout,
            "workdir": options.workdir,
            "name": self._sweep_id,
            "env": {**options.env, **variables_of(self._sweep_id, job.index, job.attempt)},
            "private_network": options.private_network,
            "private_pid": options.private_pid,
            "idempotency_key": f"hakurun-{self._sweep_id}-{job.index}-{job.attempt}",
            "batch_id": self._batch_id,
        }
        return command_request([*command_of(self._program, options.python), *arguments], **more)

    def _refused(self, flight: _Flight, error: HakuRiverError | None) -> None:
        """Use the target no more, and try the combination elsewhere."""
        index = flight.job.index
        self._flights.pop(index)
        self._attempts.open.pop(index, None)
        lane = self._lanes.at(flight.target)
        lane.ends(index)
        self._again.appendleft((index, flight.tries))
        if isinstance(error, InvalidRequest) and error.field == "batch_id":
            # Its tasks are gone, or the host's whole database is: there will be a new one.
            self._batch_id = None
            return
        lane.closed = True
        if isinstance(error, Conflict):
            raise Conflict(
                "tasks of this sweep were submitted with other options: resume it with the same "
                "--cores, --memory, --timeout, --workdir and --env"
            )
        if self._lanes.closed:
            raise error or Conflict("the host takes no task of this sweep")

    async def _follow(self, flight: _Flight, task: AsyncTask) -> None:
        job = flight.job
        flight.task_id = task.task_id
        for path in job.files or ():
            path.write_bytes(b"")
        final: TaskView | None = None
        started = False
        async with aclosing(follow_async([task], errors="surrogateescape")) as items:
            async for item in items:
                # A task may wait for long, and what it writes may come before its state.
                if not started and (isinstance(item, AsyncOutput) or item.view.started_at):
                    started = True
                    await self._events.put(Started(job.index, job.attempt))
                if isinstance(item, AsyncOutput):
                    data = item.text.encode("utf-8", "surrogateescape")
                    output = job.take(item.stream, data)
                    if output is not None:
                        await self._put_output(job, output)
                elif is_final(item.view):
                    final = item.view
                elif item.view.status is TaskState.RUNNING:
                    self._lanes.at(flight.target).starts(job.index)
                    self._room.set()
        if final is not None:
            await self._ended(flight, final)

    async def _put_output(self, job: Job, output: Output) -> None:
        if job.files is None:
            await self._events.put(output)
        else:
            await asyncio.to_thread(_append, job.files[output.stream == "stderr"], output.lines)

    async def _ended(self, flight: _Flight, view: TaskView) -> None:
        job = flight.job
        for output in job.rest():
            await self._put_output(job, output)
        end = _end_of(flight, view, again=flight.tries <= self._limits.retries)
        self._lanes.at(flight.target).ends(job.index, end.seconds)
        self._flights.pop(job.index, None)
        self._attempts.open.pop(job.index, None)
        if end.again:
            self._again.append((job.index, flight.tries + 1))
        elif end.ok:
            # Of a million there is no need to know how often each was tried.
            self._attempts.tried.pop(job.index, None)
        else:
            self._failures += 1
        await self._events.put(end)
        limit = self._limits.max_failures
        if not end.again and not end.ok and limit and self._failures >= limit:
            self.stopped = self._too_many = True
            await self._events.put(None)
        self._room.set()

    async def _kill_all(self, client: AsyncClient) -> None:
        """End what was submitted: so many failures are enough."""
        for flight in list(self._flights.values()):
            if flight.task_id:
                with suppress(Conflict, NotFound):
                    await client.kill(flight.task_id)


def _append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def _first(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    found = failures.exceptions[0]
    return _first(found) if isinstance(found, BaseExceptionGroup) else found


def _end_of(flight: _Flight, view: TaskView, *, again: bool) -> Ended:
    ok = view.status is TaskState.COMPLETED
    reason = "" if ok else view.reason or ""
    if view.status not in (TaskState.COMPLETED, TaskState.FAILED):
        reason = f"{view.status.value}: {reason}" if reason else view.status.value
    code = 0 if ok else view.exit_code
    if reason == f"exit code {code}":
        # Nothing more than the code itself says.
        reason = ""
    return Ended(
        flight.job.index,
        # A task that was killed may have ended well just so.
        code if ok or code != 0 else None,
        _seconds(view),
        _moment(view.completed_at),
        attempt=flight.job.attempt,
        tail=flight.job.tail(),
        reason=reason,
        task_id=view.task_id,
        target=view.target,
        again=again and not ok,
    )


def _seconds(view: TaskView) -> float:
    if view.started_at is None or view.completed_at is None:
        return 0.0
    return max(0.0, _moment(view.completed_at) - _moment(view.started_at))


def _moment(text: str | None) -> float:
    return datetime.fromisoformat(text).timestamp() if text else 0.0
