"""What becomes of tasks, pushed by the host over one event stream for all that are watched.

`Watch` is one task's latest state with those who listen; `Watcher` owns the stream. Everything
here lives on one event loop.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from hakuriver.client.backoff import ADOPTION, PASSING, PATIENCE, Backoff
from hakuriver.client.outcome import is_final
from hakuriver.errors import Conflict, HakuRiverError, HostFault, HostUnreachable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable

    from hakuriver.client.cluster import Cluster
    from hakuriver.model.views import Event, TaskView

_log = logging.getLogger(__name__)

#: Seconds for which the stream stays open when nothing is watched.
IDLE = 5.0

# With so many tasks watched, news are let gather for so many seconds: taking each small piece
# off the stream alone costs more than what is in it. Where tasks are few, none waits.
_MANY = 50
_GATHER = 0.02
_TAKING = 0.001


class Watch:
    """The latest known state of one task; `error` says why no more will come."""

    def __init__(self, view: TaskView) -> None:
        self.view = view
        self.error: HakuRiverError | None = None
        self._listeners: list[Callable[[Watch], None]] = []

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self.error is not None or is_final(self.view)

    @property
    def listened(self) -> bool:
        """Whether anybody listens."""
        return bool(self._listeners)

    def listen(self, listener: Callable[[Watch], None]) -> Callable[[], None]:
        """Call `listener` on the loop after every change; return what ends that."""
        self._listeners.append(listener)

        def leave() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return leave

    def update(self, view: TaskView, *, force: bool = False) -> None:
        """Take `view` if it is newer than what is known (or with `force`, if it differs)."""
        if view.rev > self.view.rev or (force and view != self.view):
            self.view = view
            self._tell()

    def fail(self, error: HakuRiverError) -> None:
        """Tell all who listen that no more will come."""
        self.error = error
        self._tell()

    async def until_ended(self) -> TaskView:
        """Return the final state; raise the error with which the watch ended."""
        async for _ in self.changes():
            pass
        return self.view

    async def changes(self) -> AsyncIterator[TaskView]:
        """Give the present state and each later one, the final one last."""
        queue: asyncio.Queue[TaskView] = asyncio.Queue()
        leave = self.listen(lambda watch: queue.put_nowait(watch.view))
        try:
            view = self.view
            while True:
                if self.error is not None:
                    raise self.error
                yield view
                if is_final(view):
                    return
                view = await queue.get()
        finally:
            leave()

    def _tell(self) -> None:
        for listener in tuple(self._listeners):
            listener(self)


class Watcher:
    """Keeps watches up to date by the event stream, which it opens when there is need.

    A broken stream is opened again from the last revision seen, so that no change is missed;
    after `patience` seconds of failures all watches end with the error.
    """

    def __init__(self, cluster: Cluster, *, patience: float = PATIENCE, idle: float = IDLE) -> None:
        self.cluster = cluster
        self.patience = patience
        self._idle = idle
        self._watches: dict[str, Watch] = {}
        self._early: dict[str, list[TaskView]] = {}
        #: When to give up on tasks that the host does not know any more.
        self._missing: dict[str, asyncio.TimerHandle] = {}
        self._adding = 0
        self._rev: int | None = None
        self._stale = False
        self._live: asyncio.Future[None] | None = None
        self._reader: asyncio.Task[None] | None = None
        self._ending: set[asyncio.Task[None]] = set()
        self._idle_timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._gathered = 0.0
        self._trouble: HakuRiverError | None = None
        self._troubled: list[Callable[[HakuRiverError | None], None]] = []

    @property
    def trouble(self) -> HakuRiverError | None:
        """Why the stream is broken that somebody waits for; None while all is well."""
        return self._trouble

    def on_trouble(self, callback: Callable[[HakuRiverError | None], None]) -> Callable[[], None]:
        """Call `callback` on the loop when the stream breaks, with the error, and when it is back.

        Returns what ends that.
        """
        self._troubled.append(callback)

        def leave() -> None:
            if callback in self._troubled:
                self._troubled.remove(callback)

        return leave

    def follows(self, watch: Watch) -> bool:
        """Tell whether `watch` is kept up to date."""
        return self._watches.get(watch.view.task_id) is watch

    @asynccontextmanager
    async def adding(self) -> AsyncGenerator[None]:
        """Keep all news of unknown tasks meanwhile: they may come before their ids are known."""
        self._adding += 1
        try:
            await self._open()
            yield
        finally:
            self._adding -= 1
            if not self._adding:
                self._early.clear()
                self._rest()

    def add(self, view: TaskView) -> Watch:
        """Watch a task whose state was asked for within `adding`, or that was created there."""
        watch = self._watches.get(view.task_id) or Watch(view)
        if not watch.ended:
            self._watches[view.task_id] = watch
        for early in self._early.pop(view.task_id, []):
            self._apply(watch, early)
        return watch

    def renew(self, view: TaskView) -> None:
        """Take in the present state of a task, if it is watched."""
        watch = self._watches.get(view.task_id)
        if watch is not None:
            self._apply(watch, view)

    async def attach(self, view: TaskView) -> Watch:
        """Watch a task that exists, from its state now on."""
        await self._open()
        watch = self._watches.setdefault(view.task_id, Watch(view))
        try:
            self._apply(watch, await self.cluster.status(view.task_id))
        except BaseException:
            if not watch.listened and self.follows(watch):
                del self._watches[view.task_id]
            self._rest()
            raise
        return watch

    async def close(self) -> None:
        """End the stream; whoever still waits is told that this client is closed."""
        self._closed = True
        self._stop()
        self._fail_all(
            Conflict("this client was closed; another can take the task up with client.task(id)")
        )
        await asyncio.gather(*self._ending, return_exceptions=True)

    async def _open(self) -> None:
        """Return once the stream is live: no later change will be missed."""
        if self._closed:
            raise Conflict("this client is closed; make another")
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
        if self._reader is None or self._live is None:
            self._live = asyncio.get_running_loop().create_future()
            self._reader = asyncio.create_task(self._read(self._live), name="hakuriver events")
        if not self._live.done():
            # One impatient caller must not end the opening for the others.
            await asyncio.wait({self._live})
        self._live.result()

    def _rest(self) -> None:
        """Close the stream in a while unless something is watched by then."""
        if self._watches or self._adding or self._reader is None:
            return
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        loop = asyncio.get_running_loop()
        self._idle_timer = loop.call_later(self._idle, self._stop_if_idle)

    def _stop_if_idle(self) -> None:
        self._idle_timer = None
        if not self._watches and not self._adding:
            self._stop()

    def _stop(self) -> None:
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
        reader, self._reader, self._rev = self._reader, None, None
        self._note(None)
        if reader is not None:
            self._ending.add(reader)
            reader.add_done_callback(self._ending.discard)
            reader.cancel()

    async def _read(self, live: asyncio.Future[None]) -> None:
        """Read the stream, opening it again whenever it breaks."""
        backoff = Backoff(self.patience)
        try:
            while True:
                try:
                    async with self.cluster.events(self._rev) as events:
                        await self._take_all(events, live, backoff)
                except PASSING as error:
                    # Who asks for the first time wants to hear at once that nobody is there.
                    if not live.done():
                        raise
                    self._note(error)
                    await backoff.wait(error)
        except HakuRiverError as error:
            self._give_up(error, live)
        except Exception:  # noqa: BLE001 - the top of a task; the log has the traceback
            # Whoever waits must not wait for ever, whatever fault of ours it was.
            _log.exception("the event stream of %s ended by a fault", self.cluster.address)
            self._give_up(HostFault("a fault in this client; its log has the details"), live)
        finally:
            _settle(live, Conflict("this client was closed"))

    async def _take_all(
        self, events: AsyncIterator[Event], live: asyncio.Future[None], backoff: Backoff
    ) -> None:
        opening = await anext(events, None)
        if opening is None:
            raise HostUnreachable(f"the host at {self.cluster.address} is going away")
        # A lower revision than ours is another database: what we know may be wrong.
        if self._rev is not None and (opening.reset or opening.rev < self._rev):
            self._stale = True
        if self._rev is None or self._stale:
            self._rev = opening.rev
        if not live.done():
            live.set_result(None)
        await self._catch_up()
        self._note(None)
        async for event in events:
            backoff.succeeded()
            self._rev = event.rev
            if event.reset:
                self._stale = True
                await self._catch_up()
            elif event.task is not None:
                self._take(event.task)
            if len(self._watches) >= _MANY:
                await self._let_gather()
        raise HostUnreachable(f"the host at {self.cluster.address} went away")

    async def _let_gather(self) -> None:
        """Pause once for what comes at a time, not once for each event in it."""
        loop = asyncio.get_running_loop()
        if loop.time() - self._gathered > _TAKING:
            await asyncio.sleep(_GATHER)
            self._gathered = loop.time()

    def _take(self, view: TaskView) -> None:
        watch = self._watches.get(view.task_id)
        if watch is not None:
            self._apply(watch, view)
        elif self._adding:
            self._early.setdefault(view.task_id, []).append(view)

    async def _catch_up(self) -> None:
        """After a gap in the stream, ask for the present state of everything watched."""
        if not self._stale:
            return
        for task_id, watch in tuple(self._watches.items()):
            try:
                view = await self.cluster.status(task_id)
            except HakuRiverError as error:
                if isinstance(error, PASSING):
                    raise
                self._miss(task_id, watch, error)
            else:
                self._apply(watch, view, force=True)
        self._stale = False

    def _miss(self, task_id: str, watch: Watch, error: HakuRiverError) -> None:
        """Give up on a task that the host does not know, unless it hears of it in a while.

        A host whose database was lost learns of its tasks from their nodes, as these link up.
        """

        def give_up() -> None:
            self._missing.pop(task_id, None)
            if self.follows(watch):
                del self._watches[task_id]
                watch.fail(error)

        if task_id not in self._missing:
            loop = asyncio.get_running_loop()
            self._missing[task_id] = loop.call_later(ADOPTION, give_up)

    def _apply(self, watch: Watch, view: TaskView, *, force: bool = False) -> None:
        missing = self._missing.pop(view.task_id, None)
        if missing is not None:
            missing.cancel()
            force = True  # the host's database is another one, its revisions too
        watch.update(view, force=force)
        if watch.ended and self.follows(watch):
            del self._watches[watch.view.task_id]
            self._rest()

    def _give_up(self, error: HakuRiverError, live: asyncio.Future[None]) -> None:
        if self._live is not live:
            return
        self._reader, self._rev = None, None
        self._note(None)
        if live.done():
            self._fail_all(error)
        _settle(live, error)

    def _note(self, trouble: HakuRiverError | None) -> None:
        """Take note of the stream's state; tell those who asked when it breaks or is back."""
        was, self._trouble = self._trouble, trouble
        if (was is None) != (trouble is None):
            for callback in tuple(self._troubled):
                callback(trouble)

    def _fail_all(self, error: HakuRiverError) -> None:
        for timer in self._missing.values():
            timer.cancel()
        self._missing.clear()
        watches = tuple(self._watches.values())
        self._watches.clear()
        for watch in watches:
            watch.fail(error)


def _settle(live: asyncio.Future[None], error: HakuRiverError) -> None:
    """Let those who wait for the stream fail with `error`, unless it is live already."""
    if not live.done():
        live.set_exception(error)
        # Nobody may be waiting, and that is no fault to warn about.
        live.exception()
