"""What the client command does with a command to run: submit it, and wait for it where asked."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from hakuriver.cli.shared.common import silence_of, tell
from hakuriver.cli.shared.options import SubmitOptions, read_env
from hakuriver.cli.shared.progress import Progress
from hakuriver.cli.shared.settings import print_json
from hakuriver.cli.shared.tables import printable
from hakuriver.cli.tasks.arguments import NAME
from hakuriver.cli.tasks.show import state_words
from hakuriver.client.building import command_request, rerun_request
from hakuriver.client.follow import STREAMS, Change, LinePrefixer, follow, labels
from hakuriver.client.outcome import describe
from hakuriver.errors import HostUnreachable, InvalidRequest, SubmissionRefused
from hakuriver.model.tasks import TaskState

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Generator, Sequence

    from hakuriver.client.follow import Output
    from hakuriver.client.futures import Task
    from hakuriver.client.sync import Client
    from hakuriver.errors import HakuRiverError
    from hakuriver.model.messages import Stream
    from hakuriver.model.submission import SubmitRequest
    from hakuriver.model.views import FailedTarget, TaskView

_T = TypeVar("_T")

#: Some targets got a task and others none.
PARTLY_REFUSED = 3
_INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class _Submitted:
    """What came of a submission: tasks of one batch, and the targets that got none."""

    batch_id: str
    tasks: Sequence[Task]
    failed_targets: Sequence[FailedTarget] = ()


def build_request(
    parser: argparse.ArgumentParser, options: argparse.Namespace, command: Sequence[str]
) -> SubmitRequest:
    """Return the request for what was typed; end with the usage if it cannot be accepted."""

    def build() -> SubmitRequest:
        arguments = SubmitOptions.from_namespace(options, os.environ).as_arguments()
        return command_request(list(command), **arguments)

    return _or_usage(parser, build)


def build_env(parser: argparse.ArgumentParser, options: argparse.Namespace) -> dict[str, str]:
    """Return the variables that were given; end with the usage if they cannot be accepted."""

    def build() -> dict[str, str]:
        env = read_env(options, os.environ)
        rerun_request(env=env)
        return env

    return _or_usage(parser, build)


def _or_usage(parser: argparse.ArgumentParser, build: Callable[[], _T]) -> _T:
    try:
        return build()
    except InvalidRequest as error:
        parser.error(str(error))


def submit(client: Client, options: argparse.Namespace, request: SubmitRequest) -> int:
    """Submit, tell the ids, wait if that is wanted; return the exit code."""
    with _refusal_as_json(options):
        batch = client.submit_request(request)
    return _go_on(client, _Submitted(batch.batch_id, batch, batch.failed_targets), options)


def rerun(client: Client, options: argparse.Namespace, env: dict[str, str]) -> int:
    """Run an ended task again, then do as after a submission."""
    with _refusal_as_json(options):
        task = client.rerun(options.rerun, env=env, queue=not options.no_queue)
    return _go_on(client, _Submitted(task.batch_id, (task,)), options)


@contextmanager
def _refusal_as_json(options: argparse.Namespace) -> Generator[None]:
    try:
        yield
    except SubmissionRefused as error:
        if options.json:
            print_json({"detail": str(error), "failed_targets": error.failed_targets})
        raise


def _go_on(client: Client, submitted: _Submitted, options: argparse.Namespace) -> int:
    """Tell the ids, wait if that is wanted; return the exit code."""
    waiting = options.wait or options.follow
    code = 0
    if not options.json:
        # The task's own output alone belongs to stdout when it is followed.
        _tell_ids(submitted, follow=options.follow)
    if waiting:
        try:
            _wait(client, submitted.tasks, options)
        except KeyboardInterrupt:
            _tell_way_back(submitted)
            return _INTERRUPTED
        except HostUnreachable:
            # Its patience is at an end, the task's is not.
            _tell_way_back(submitted)
            raise
        code = _exit_code([task.view for task in submitted.tasks])
    if options.json:
        _print_submitted(submitted, with_tasks=waiting)
    return PARTLY_REFUSED if submitted.failed_targets else code


def _tell_ids(submitted: _Submitted, *, follow: bool) -> None:
    out = sys.stderr if follow else sys.stdout
    for task in submitted.tasks:
        print(describe(task.view), file=out, flush=True)
    for failed in submitted.failed_targets:
        tell(NAME, f"no task on {failed.target}: {failed.reason}")


def _wait(client: Client, tasks: Sequence[Task], options: argparse.Namespace) -> None:
    """Tell every change of state, and with ``--follow`` the output, until all tasks have ended."""
    screen = _Screen(labels(tasks) if len(tasks) > 1 else None)
    states = sys.stderr if options.follow or options.json else sys.stdout
    told: dict[str, TaskState] = {}
    streams = STREAMS if options.follow else ()
    # Among followed output there is no place for a line that stays.
    progress = Progress([task.view for task in tasks if not options.follow])
    with (
        progress,
        _telling_trouble(client, progress),
        follow(tasks, streams=streams, errors="surrogateescape") as items,
    ):
        for item in items:
            if not isinstance(item, Change):
                screen.write(item)
                continue
            view = item.view
            # Revision 0 is our own guess before the host's first word.
            if view.rev and told.get(view.task_id) is not view.status:
                told[view.task_id] = view.status
                progress.note(view)
                screen.flush(view.task_id)
                line = printable(f"{describe(view)}: {state_words(view)}")
                with progress.aside():
                    print(line, file=states, flush=True)
    screen.flush()


@contextmanager
def _telling_trouble(client: Client, progress: Progress) -> Generator[None]:
    """Say so, once each time, when the host does not answer any more."""

    def changed(error: HakuRiverError | None) -> None:
        if error is not None:
            with progress.aside():
                tell(NAME, silence_of(client.address))

    leave = client.aio.watcher.on_trouble(changed)
    try:
        yield
    finally:
        leave()


class _Screen:
    """Writes output byte for byte, or, with labels for several tasks, in whole lines."""

    def __init__(self, names: dict[str, str] | None) -> None:
        self._names = names
        self._prefixers: dict[Stream, LinePrefixer] = {stream: LinePrefixer() for stream in STREAMS}

    def write(self, output: Output) -> None:
        text = output.text
        if self._names is not None:
            text = self._prefixers[output.stream].add(self._names[output.task.task_id], text)
        _put(output.stream, text)

    def flush(self, task_id: str | None = None) -> None:
        """Write what one task, or every task, has begun and not ended."""
        if self._names is None:
            return
        for stream, prefixer in self._prefixers.items():
            _put(stream, prefixer.flush(None if task_id is None else self._names[task_id]))


def _put(stream: Stream, text: str) -> None:
    if text:
        file = (sys.stdout if stream == "stdout" else sys.stderr).buffer
        file.write(text.encode("utf-8", "surrogateescape"))
        file.flush()


def _tell_way_back(submitted: _Submitted) -> None:
    tasks = submitted.tasks
    unfinished = [task.task_id for task in tasks if not task.done()] or [tasks[0].task_id]
    first = unfinished[0]
    if len(unfinished) == 1:
        goes, end = "the task goes on", f"end it with `--kill {first}`"
    else:
        goes = f"{len(unfinished)} tasks go on"
        end = f"end them with `--kill-batch {submitted.batch_id}`"
    # The terminal shows ^C where the line began.
    print(file=sys.stderr)
    tell(
        NAME,
        f"stopped waiting, {goes}; come back with `{NAME} --status {first}` "
        f"or `--logs {first} --follow`, {end}",
    )


def _print_submitted(submitted: _Submitted, *, with_tasks: bool) -> None:
    document: dict[str, object] = {
        "task_ids": [task.task_id for task in submitted.tasks],
        "batch_id": submitted.batch_id,
        "failed_targets": submitted.failed_targets,
    }
    if with_tasks:
        document["tasks"] = [task.view for task in submitted.tasks]
    print_json(document)


def _exit_code(views: Sequence[TaskView]) -> int:
    """Return 0 if all completed; else a single task's own code as a shell tells it, or 1."""
    if all(view.status is TaskState.COMPLETED for view in views):
        return 0
    code = views[0].exit_code if len(views) == 1 else None
    if not code:
        return 1
    return code if code > 0 else 128 - code
