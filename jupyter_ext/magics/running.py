"""Those of ``%hakuriver COMMAND`` that make a future, take one up, or wait for one."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

from hakuriver.cli.shared.options import SubmitOptions, add_submit_options
from hakuriver.client.follow import Output, follow
from hakuriver.client.futures import Task
from hakuriver.client.logs import read_text
from hakuriver.client.portal import Drain
from hakuriver.errors import NotFound
from jupyter_ext.magics.cell import Cell
from jupyter_ext.magics.errors import CellInterrupted, brief
from jupyter_ext.magics.feed import Feed, tasks_of
from jupyter_ext.magics.parsers import MagicParser
from jupyter_ext.magics.viewer import Viewer

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Sequence

    from hakuriver.client.futures import Batch
    from hakuriver.client.sync import Client
    from hakuriver.model.messages import Stream
    from hakuriver.model.views import TaskResult
    from jupyter_ext.magics.session import Session


def submit(session: Session, options: argparse.Namespace) -> Task | Batch:
    """Submit the command, and return its future at once."""
    arguments = SubmitOptions.from_namespace(options, os.environ).as_arguments()
    client = session.client()

    def ask() -> Task | Batch:
        future: Task | Batch = client.run(options.words, **arguments)
        return future

    return _obtain(session, ask)


def rerun(session: Session, options: argparse.Namespace) -> Task | Batch:
    """Submit once more what an ended task ran, and return its future at once."""
    parser = MagicParser(prog="%hakuriver rerun", allow_abbrev=False)
    add_submit_options(parser)
    given = parser.parse_args([f"--env={one}" for one in options.env])
    env = SubmitOptions.from_namespace(given, os.environ).env
    client = session.client()
    return _obtain(session, lambda: client.rerun(options.id, env=env or None))


def attach(session: Session, options: argparse.Namespace) -> Task | Batch:
    """Show a task or batch from its start to its end, and return its future.

    An interrupt ends the showing, not the task. How a task ended is told by the status line and
    raised by the future alone.
    """
    cell = Cell(
        Feed(partial(_take_up, session.client(), options.id), follow),
        store=session.keep,
        word="attached",
        on_interrupt="detach",
    )
    if options.detach:
        return cell.detach(session.show_behind)
    return cell.run(raise_error=False)


def wait(session: Session, options: argparse.Namespace) -> TaskResult | list[TaskResult]:
    """Wait with a status line, and return the results: a list but for a single task."""
    client, ids = session.client(), options.ids
    last = None if ids else session.last_future()
    cell = Cell(
        Feed(
            lambda: _take_up_all(client, ids) if last is None else last, partial(follow, streams=())
        ),
        store=lambda _: None,
        word="awaited",
        on_interrupt="detach",
    )
    future = cell.run(raise_error=False)
    error = cell.viewer.status.failure()
    if error is not None:
        task_id = error.result.task_id
        raise brief(error, [f"what it wrote: %hakuriver logs {task_id} --stderr"])
    results = cell.viewer.status.results()
    return results[0] if isinstance(future, Task) else results


def logs(session: Session, options: argparse.Namespace) -> None:
    """Print what a task has written to one stream so far, or with ``--follow`` on to its end."""
    client = session.client()

    def source(tasks: Sequence[Task]) -> _Log:
        stream: Stream = "stderr" if options.stderr else "stdout"
        return _Log(tasks[0], stream, tail=options.tail, follow=options.follow)

    feed = Feed(lambda: client.task(options.id), source)
    viewer = Viewer(feed, hint="; see fewer with --tail N")
    try:
        feed.start()
        viewer.watch()
        viewer.end()
    except KeyboardInterrupt:
        raise CellInterrupted("the log is no longer read; the task is not affected") from None
    finally:
        feed.leave()
    if feed.error is not None:
        raise feed.error


class _Log:
    """One log as a feed's source; whichever it is, it is what was asked for: plain output."""

    def __init__(self, task: Task, stream: Stream, *, tail: int | None, follow: bool) -> None:
        self._task = task
        watcher = task.handle.watcher
        self._text = Drain(
            task.portal,
            lambda: read_text(
                watcher.cluster,
                task.task_id,
                stream,
                follow=follow,
                tail=tail,
                patience=watcher.patience,
            ),
        )

    def __iter__(self) -> Iterator[Output]:
        for text in self._text:
            yield Output(self._task, "stdout", text)

    def close(self) -> None:
        """Read no more."""
        self._text.close()


def _obtain(session: Session, ask: Callable[[], Task | Batch]) -> Task | Batch:
    """Return the future as soon as the host has answered; nothing is followed."""
    cell: Cell[Task | Batch] = Cell(Feed(ask, None), store=session.keep)
    return cell.obtain()


def _take_up(client: Client, identity: str) -> Task | Batch:
    """Return the task of this id, or else the batch; raise `NotFound` if there is neither."""
    try:
        return client.task(identity)
    except NotFound as error:
        try:
            return client.batch(identity)
        except NotFound:
            raise error from None


def _take_up_all(client: Client, ids: Sequence[str]) -> Task | Batch | tuple[Task, ...]:
    futures = [_take_up(client, each) for each in ids]
    if len(futures) == 1:
        return futures[0]
    return tuple(task for future in futures for task in tasks_of(future))
