"""What the client command does with a command to run: submit it, and wait for it where asked."""

from __future__ import annotations

import os
import shlex
import sys
from typing import TYPE_CHECKING

from hakuriver.cli.options import SubmitOptions
from hakuriver.cli.queries import print_json
from hakuriver.cli.show import state_words
from hakuriver.cli.tables import printable
from hakuriver.client.building import command_request
from hakuriver.client.follow import STREAMS, Change, LinePrefixer, follow, labels
from hakuriver.client.outcome import describe
from hakuriver.errors import InvalidRequest, SubmissionRefused
from hakuriver.model.tasks import TaskState

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from hakuriver.client.follow import Output
    from hakuriver.client.futures import Batch
    from hakuriver.client.sync import Client
    from hakuriver.model.messages import Stream
    from hakuriver.model.submission import SubmitRequest
    from hakuriver.model.views import TaskView

#: Some targets got a task and others none.
PARTLY_REFUSED = 3
_INTERRUPTED = 130


def build_request(
    parser: argparse.ArgumentParser, options: argparse.Namespace, command: Sequence[str]
) -> SubmitRequest:
    """Return the request for what was typed; end with the usage if it cannot be accepted."""
    try:
        arguments = SubmitOptions.from_namespace(options, os.environ).as_arguments()
        return command_request(list(command), **arguments)
    except InvalidRequest as error:
        parser.error(str(error))


def submit(client: Client, options: argparse.Namespace, request: SubmitRequest) -> int:
    """Submit, tell the ids, wait if that is wanted; return the exit code."""
    try:
        batch = client.submit_request(request)
    except SubmissionRefused as error:
        if options.json:
            print_json({"detail": str(error), "failed_targets": error.failed_targets})
        raise
    waiting = options.wait or options.follow
    code = 0
    if not options.json:
        # The task's own output alone belongs to stdout when it is followed.
        _tell_ids(batch, follow=options.follow)
    if waiting:
        try:
            _wait(batch, options)
        except KeyboardInterrupt:
            _tell_way_back(batch)
            return _INTERRUPTED
        code = _exit_code([task.view for task in batch])
    if options.json:
        _print_batch(batch, with_tasks=waiting)
    return PARTLY_REFUSED if batch.failed_targets else code


def _tell_ids(batch: Batch, *, follow: bool) -> None:
    out = sys.stderr if follow else sys.stdout
    for task in batch:
        print(describe(task.view), file=out, flush=True)
    for failed in batch.failed_targets:
        line = printable(f"no task on {failed.target}: {failed.reason}")
        print(f"hakuriver.client: {line}", file=sys.stderr)


def _wait(batch: Batch, options: argparse.Namespace) -> None:
    """Tell every change of state, and with ``--follow`` the output, until all tasks have ended."""
    screen = _Screen(labels(batch) if len(batch) > 1 else None)
    states = sys.stderr if options.follow or options.json else sys.stdout
    told: dict[str, TaskState] = {}
    streams = STREAMS if options.follow else ()
    with follow(batch, streams=streams, errors="surrogateescape") as items:
        for item in items:
            if not isinstance(item, Change):
                screen.write(item)
                continue
            view = item.view
            # Revision 0 is our own guess before the host's first word.
            if view.rev and told.get(view.task_id) is not view.status:
                told[view.task_id] = view.status
                screen.flush(view.task_id)
                line = printable(f"{describe(view)}: {state_words(view)}")
                print(line, file=states, flush=True)
    screen.flush()


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


def _tell_way_back(batch: Batch) -> None:
    unfinished = [task.task_id for task in batch if not task.done()] or [batch[0].task_id]
    first = unfinished[0]
    goes = "the task goes on" if len(unfinished) == 1 else f"{len(unfinished)} tasks go on"
    others = f" (and {shlex.join(unfinished[1:])})" if unfinished[1:] else ""
    print(
        f"\nhakuriver.client: stopped waiting, {goes}; come back with "
        f"`hakuriver.client --status {first}` or `--logs {first} --follow`, "
        f"end it with `--kill {first}`{others}",
        file=sys.stderr,
    )


def _print_batch(batch: Batch, *, with_tasks: bool) -> None:
    document: dict[str, object] = {
        "task_ids": [task.task_id for task in batch],
        "batch_id": batch.batch_id,
        "failed_targets": batch.failed_targets,
    }
    if with_tasks:
        document["tasks"] = [task.view for task in batch]
    print_json(document)


def _exit_code(views: Sequence[TaskView]) -> int:
    """Return 0 if all completed; else a single task's own code as a shell tells it, or 1."""
    if all(view.status is TaskState.COMPLETED for view in views):
        return 0
    code = views[0].exit_code if len(views) == 1 else None
    if not code:
        return 1
    return code if code > 0 else 128 - code
