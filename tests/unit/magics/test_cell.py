"""Faults and interrupts at moments that a real cluster does not offer on demand."""

from __future__ import annotations

import signal
import threading
from concurrent.futures import Future
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from hakuriver.client.follow import Change, Output
from hakuriver.client.futures import Task
from hakuriver.errors import (
    Conflict,
    HakuRiverError,
    HostUnreachable,
    SubmissionRefused,
    TaskFailed,
)
from hakuriver.model.tasks import TaskState
from hakuriver.model.views import FailedTarget
from jupyter_ext.magics import cell as cell_module
from jupyter_ext.magics.cell import Cell
from jupyter_ext.magics.errors import Brief, CellInterrupted
from jupyter_ext.magics.feed import Feed
from jupyter_ext.magics.session import Session
from support.processes import wait_until
from support.task_views import ended, view

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hakuriver.client.handles import AsyncTask
    from hakuriver.model.views import TaskView
    from jupyter_ext.magics.cell import OnInterrupt
    from jupyter_ext.magics.feed import Event

    Events = Callable[["FakeTask"], Iterator[Event]]


class FakeWatcher:
    """What tells whether the host answers."""

    def __init__(self) -> None:
        self.trouble: HakuRiverError | None = None
        self.cluster = SimpleNamespace(address="http://127.0.0.1:8000")
        self.told: list[Callable[[HakuRiverError | None], None]] = []

    def on_trouble(self, callback: Callable[[HakuRiverError | None], None]) -> Callable[[], None]:
        self.told.append(callback)
        return lambda: self.told.remove(callback)

    def note(self, trouble: HakuRiverError | None) -> None:
        self.trouble = trouble
        for callback in self.told:
            callback(trouble)


class FakeTask(Task):
    """A task whose output and changes a test makes up."""

    task_id = "7"
    batch_id = "6"

    def __init__(self, kill_error: Exception | None = None) -> None:
        Future.__init__(self)
        self.killed = threading.Event()
        self.kill_error = kill_error
        self.watcher = FakeWatcher()

    @property
    def handle(self) -> AsyncTask:
        return cast("AsyncTask", self)

    def kill(self) -> None:
        self.killed.set()
        if self.kill_error is not None:
            raise self.kill_error

    def change(self, view: TaskView) -> Change:
        return Change(self, view)

    def output(self, text: str) -> Output:
        return Output(self, "stderr", text)


class FakeSource:
    """An iterator of events that can be closed; `close` lets those end that wait."""

    def __init__(self, events: Iterator[Event], close: Callable[[], None] = lambda: None) -> None:
        self._events = events
        self.close = close

    def __iter__(self) -> Iterator[Event]:
        return self._events


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """No thread of a cell outlives its test."""
    yield
    join("hakuriver-feed")
    join("hakuriver-detached")


def join(name: str) -> None:
    """Wait for the end of all threads of this name."""
    for thread in threading.enumerate():
        if thread.name == name:
            thread.join(5)
            assert not thread.is_alive()


def make(
    task: FakeTask,
    events: Events,
    on_interrupt: OnInterrupt = "kill",
    close: Callable[[], None] = lambda: None,
) -> Cell[Task]:
    """Return a cell whose task brings these events."""
    feed: Feed[Task] = Feed(lambda: task, lambda _: FakeSource(events(task), close))
    return Cell(feed, store=lambda _: None, on_interrupt=on_interrupt)


def run(task: FakeTask, events: Events, on_interrupt: OnInterrupt = "kill") -> None:
    make(task, events, on_interrupt).run()


def run_submission(submit: Callable[[], Task], *events: Event) -> None:
    """Run a cell that submits like that."""
    Cell(Feed(submit, lambda _: FakeSource(iter(events))), store=lambda _: None).run()


def interrupt() -> None:
    """Do to the main thread what a kernel's stop button does."""
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


def lines(error: BaseException) -> str:
    assert isinstance(error, Brief)
    return "\n".join(error._render_traceback_())


def test_a_submission_that_fails_is_one_error() -> None:
    def submit() -> Task:
        raise HostUnreachable("no host answers at http://127.0.0.1:1")

    with pytest.raises(HostUnreachable) as caught:
        run_submission(submit)
    assert lines(caught.value).endswith("no host answers at http://127.0.0.1:1")


def test_a_refusal_names_each_target() -> None:
    def submit() -> Task:
        raise SubmissionRefused("no task was created", [FailedTarget("n1", "is offline")])

    with pytest.raises(SubmissionRefused) as caught:
        run_submission(submit)
    assert lines(caught.value).endswith("n1: is offline")


def test_a_fault_of_ours_is_not_made_brief() -> None:
    def submit() -> Task:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        run_submission(submit)


def test_a_connection_that_is_lost_says_that_the_task_goes_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def events(task: FakeTask) -> Iterator[Output | Change]:
        yield task.change(view())
        yield task.output("half a ")
        raise HostUnreachable("the host went away")

    with pytest.raises(HostUnreachable) as caught:
        run(FakeTask(), events)
    assert "task 7 goes on; come back with %hakuriver attach 7" in lines(caught.value)
    shown = capsys.readouterr()
    assert "the connection was lost" in shown.out
    assert shown.err == "half a "


def test_a_failure_shows_the_end_of_what_it_wrote() -> None:
    def events(task: FakeTask) -> Iterator[Output | Change]:
        yield task.output('Traceback (most recent call last):\n  File "x"\nKeyError: 1\n')
        yield task.change(ended(TaskState.FAILED, exit_code=1))

    with pytest.raises(TaskFailed) as caught:
        run(FakeTask(), events)
    assert lines(caught.value).splitlines()[1:] == [
        "  KeyError: 1",
        "the whole log: %hakuriver logs 7 --stderr",
    ]


def test_an_interrupt_kills_and_waits() -> None:
    def events(task: FakeTask) -> Iterator[Output | Change]:
        yield task.change(view())
        interrupt()
        assert task.killed.wait(10)
        yield task.change(ended(TaskState.KILLED))

    with pytest.raises(CellInterrupted, match=r"task 7: killed after 1\.2 s"):
        run(FakeTask(), events)


def test_an_interrupt_before_the_hosts_answer_kills_what_was_submitted() -> None:
    task = FakeTask()

    def submit() -> Task:
        interrupt()
        return task

    def source(_: object) -> FakeSource:
        assert task.killed.wait(10)
        return FakeSource(iter([task.change(ended(TaskState.KILLED))]))

    with pytest.raises(CellInterrupted, match="killed"):
        Cell(Feed(submit, source), store=lambda _: None).run()


def test_an_interrupt_of_a_submission_that_fails() -> None:
    waiting = threading.Event()

    def submit() -> Task:
        interrupt()
        waiting.wait(0.5)
        raise HostUnreachable("nobody")

    with pytest.raises(CellInterrupted, match="nothing was submitted"):
        run_submission(submit)


def test_an_interrupt_of_a_task_that_has_just_ended() -> None:
    def events(task: FakeTask) -> Iterator[Output | Change]:
        yield task.change(view())
        interrupt()
        assert task.killed.wait(10)
        yield task.change(ended(TaskState.COMPLETED))

    with pytest.raises(CellInterrupted, match=r"task 7: completed in 1\.2 s"):
        run(FakeTask(Conflict("it has ended")), events)


def test_a_kill_that_does_not_reach_the_host_is_told() -> None:
    def events(task: FakeTask) -> Iterator[Output | Change]:
        yield task.change(view())
        interrupt()
        assert task.killed.wait(10)

    with pytest.raises(CellInterrupted, match="may still run: nobody answers"):
        run(FakeTask(HostUnreachable("nobody answers")), events)


def test_a_task_that_does_not_go_is_told_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cell_module, "_GRACE", 0.1)
    left = threading.Event()

    def events(task: FakeTask) -> Iterator[Output | Change]:
        yield task.change(view())
        interrupt()
        left.wait(30)

    try:
        with pytest.raises(CellInterrupted, match="1 of 1 tasks have not ended yet"):
            run(FakeTask(), events)
    finally:
        left.set()


def test_a_second_interrupt_gives_up_waiting() -> None:
    left = threading.Event()

    def events(task: FakeTask) -> Iterator[Output | Change]:
        yield task.change(view())
        interrupt()
        assert task.killed.wait(10)
        interrupt()
        left.wait(30)

    try:
        with pytest.raises(CellInterrupted, match="the kill was asked for"):
            run(FakeTask(), events)
    finally:
        left.set()


def test_an_interrupt_may_leave_the_task_running(capsys: pytest.CaptureFixture[str]) -> None:
    task, left = FakeTask(), threading.Event()

    def events(task: FakeTask) -> Iterator[Event]:
        yield task.change(view())
        yield task.output("so far")
        interrupt()
        left.wait(30)

    try:
        with pytest.raises(CellInterrupted) as caught:
            make(task, events, "detach", close=left.set).run()
    finally:
        left.set()
    assert lines(caught.value).endswith(
        "task 7 goes on; come back with %hakuriver attach 7, end it with %hakuriver kill 7"
    )
    assert not task.killed.is_set()
    shown = capsys.readouterr()
    assert shown.err == "so far"
    assert shown.out.endswith("running · interrupted, goes on\n")


def test_an_interrupt_that_would_leave_a_task_finds_it_ended() -> None:
    def events(task: FakeTask) -> Iterator[Event]:
        yield task.change(ended(TaskState.COMPLETED))
        interrupt()

    with pytest.raises(CellInterrupted, match="nothing was left to wait for"):
        run(FakeTask(), events, "detach")


def test_a_second_interrupt_before_the_hosts_answer_gives_up() -> None:
    asked = threading.Event()

    def submit() -> Task:
        interrupt()
        asked.wait(0.3)
        interrupt()
        asked.wait(30)
        raise HostUnreachable("nobody")

    try:
        with pytest.raises(CellInterrupted, match="has not answered yet, and may still"):
            run_submission(submit)
    finally:
        asked.set()


def test_the_status_line_tells_that_the_host_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    def told(words: str) -> bool:
        return words in capsys.readouterr().out

    def events(task: FakeTask) -> Iterator[Event]:
        yield task.change(view())
        for trouble, words in (
            (HostUnreachable("it went away"), "the host at http://127.0.0.1:8000 has not answered"),
            (None, "node1 · running\n"),
        ):
            task.watcher.note(trouble)
            wait_until(partial(told, words), what=words)
        yield task.change(ended(TaskState.COMPLETED))

    task = FakeTask()
    run(task, events)
    assert not task.watcher.told
    assert "has not" not in capsys.readouterr().out


def test_a_detached_cell_returns_its_future_and_goes_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    task, session, go_on = FakeTask(), Session(), threading.Event()

    def events(task: FakeTask) -> Iterator[Event]:
        assert go_on.wait(30)
        yield task.output("later")
        yield task.change(ended(TaskState.FAILED, exit_code=4))

    assert make(task, events).detach(session.show_behind) is task
    assert capsys.readouterr().out == "task 7 · submitted\n"
    go_on.set()
    join("hakuriver-detached")
    shown = capsys.readouterr()
    assert shown.err == "later"
    assert shown.out.endswith("failed after 1.2 s: exit code 4\n")


def test_a_detached_cell_tells_what_ended_it_early(capsys: pytest.CaptureFixture[str]) -> None:
    def events(task: FakeTask) -> Iterator[Event]:
        yield task.change(view())
        raise HostUnreachable("the host went away")

    make(FakeTask(), events).detach(Session().show_behind)
    join("hakuriver-detached")
    assert "running · no longer followed: the host went away" in capsys.readouterr().out


def test_a_fault_of_ours_behind_a_cell_is_logged(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    def events(task: FakeTask) -> Iterator[Event]:
        yield task.change(view())
        raise RuntimeError("a bug")

    make(FakeTask(), events).detach(Session().show_behind)
    join("hakuriver-detached")
    assert "no longer followed: a bug" in capsys.readouterr().out
    assert "RuntimeError: a bug" in caplog.text


def test_closing_the_session_ends_what_goes_on_behind(capsys: pytest.CaptureFixture[str]) -> None:
    left, session = threading.Event(), Session()

    def events(task: FakeTask) -> Iterator[Event]:
        yield task.change(view())
        left.wait(30)

    make(FakeTask(), events, close=left.set).detach(session.show_behind)
    wait_until(lambda: "running" in capsys.readouterr().out)
    session.close()
    assert not [each for each in threading.enumerate() if each.name == "hakuriver-detached"]
    assert capsys.readouterr().out.endswith("running · no longer followed here\n")


def test_an_interrupt_of_a_detached_submission_kills_it() -> None:
    task = FakeTask()

    def submit() -> Task:
        interrupt()
        return task

    feed: Feed[Task] = Feed(
        submit, lambda _: FakeSource(iter([task.change(ended(TaskState.KILLED))]))
    )
    with pytest.raises(CellInterrupted, match="killed"):
        Cell(feed, store=lambda _: None).detach(Session().show_behind)
    assert task.killed.is_set()


def test_a_future_alone_is_not_followed() -> None:
    task, kept = FakeTask(), list[Task]()
    assert Cell(Feed(lambda: task, None), store=kept.append).obtain() is task
    assert kept == [task]
