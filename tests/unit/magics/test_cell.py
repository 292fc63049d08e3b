"""Faults and interrupts at moments that a real cluster does not offer on demand."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, cast

import pytest

from hakuriver.client.follow import Change, Output
from hakuriver.errors import Conflict, HostUnreachable, SubmissionRefused, TaskFailed
from hakuriver.model.tasks import TaskState
from hakuriver.model.views import FailedTarget
from jupyter_ext.magics import cell as cell_module
from jupyter_ext.magics import feed as feed_module
from jupyter_ext.magics.cell import Cell
from jupyter_ext.magics.errors import Brief, CellInterrupted
from support.task_views import ended, view

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hakuriver.client.futures import Batch, Task
    from hakuriver.model.views import TaskView

    Events = Callable[["FakeTask"], Iterator[Output | Change]]


class FakeTask:
    """A task whose output and changes a test makes up."""

    task_id = "7"
    batch_id = "6"

    def __init__(self, kill_error: Exception | None = None) -> None:
        self.killed = threading.Event()
        self.kill_error = kill_error

    def kill(self) -> None:
        self.killed.set()
        if self.kill_error is not None:
            raise self.kill_error

    def change(self, view: TaskView) -> Change:
        return Change(cast("Task", self), view)

    def output(self, text: str) -> Output:
        return Output(cast("Task", self), "stderr", text)


class FakeFollow:
    """An iterator of events that can be closed."""

    def __init__(self, events: Iterator[Output | Change]) -> None:
        self._events = events

    def __iter__(self) -> Iterator[Output | Change]:
        return self._events

    def close(self) -> None:
        """The events end by themselves."""


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """No thread of a cell outlives its test."""
    yield
    for thread in threading.enumerate():
        if thread.name == "hakuriver-cell":
            thread.join(5)
            assert not thread.is_alive()


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[[FakeTask, Events], None]:
    """Run a cell whose task brings these events."""

    def run(task: FakeTask, events: Events) -> None:
        monkeypatch.setattr(feed_module, "follow", lambda _: FakeFollow(events(task)))
        Cell(lambda: cast("Task", task), store=lambda _: None).run()

    return run


def interrupt() -> None:
    """Do to the main thread what a kernel's stop button does."""
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


def lines(error: BaseException) -> str:
    assert isinstance(error, Brief)
    return "\n".join(error._render_traceback_())


def test_a_submission_that_fails_is_one_error() -> None:
    def submit() -> Task | Batch:
        raise HostUnreachable("no host answers at http://127.0.0.1:1")

    with pytest.raises(HostUnreachable) as caught:
        Cell(submit, store=lambda _: None).run()
    assert lines(caught.value).endswith("no host answers at http://127.0.0.1:1")


def test_a_refusal_names_each_target() -> None:
    def submit() -> Task | Batch:
        raise SubmissionRefused("no task was created", [FailedTarget("n1", "is offline")])

    with pytest.raises(SubmissionRefused) as caught:
        Cell(submit, store=lambda _: None).run()
    assert lines(caught.value).endswith("n1: is offline")


def test_a_fault_of_ours_is_not_made_brief() -> None:
    def submit() -> Task | Batch:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        Cell(submit, store=lambda _: None).run()


def test_a_connection_that_is_lost_says_that_the_task_goes_on(
    run: Callable[[FakeTask, Events], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def events(task: FakeTask) -> Iterator[Output | Change]:
        yield task.change(view())
        yield task.output("half a ")
        raise HostUnreachable("the host went away")

    with pytest.raises(HostUnreachable) as caught:
        run(FakeTask(), events)
    assert "goes on without this cell; see %hakuriver status 7" in lines(caught.value)
    shown = capsys.readouterr()
    assert "the connection was lost" in shown.out
    assert shown.err == "half a "


def test_a_failure_shows_the_end_of_what_it_wrote(
    run: Callable[[FakeTask, Events], None],
) -> None:
    def events(task: FakeTask) -> Iterator[Output | Change]:
        yield task.output('Traceback (most recent call last):\n  File "x"\nKeyError: 1\n')
        yield task.change(ended(TaskState.FAILED, exit_code=1))

    with pytest.raises(TaskFailed) as caught:
        run(FakeTask(), events)
    assert lines(caught.value).splitlines()[1:] == [
        "  KeyError: 1",
        "the whole log: %hakuriver logs 7 --stderr",
    ]


def test_an_interrupt_kills_and_waits(run: Callable[[FakeTask, Events], None]) -> None:
    def events(task: FakeTask) -> Iterator[Output | Change]:
        yield task.change(view())
        interrupt()
        assert task.killed.wait(10)
        yield task.change(ended(TaskState.KILLED))

    with pytest.raises(CellInterrupted, match=r"task 7: killed after 1\.2 s"):
        run(FakeTask(), events)


def test_an_interrupt_before_the_hosts_answer_kills_what_was_submitted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task = FakeTask()

    def submit() -> Task | Batch:
        interrupt()
        return cast("Task", task)

    def follow(_: object) -> FakeFollow:
        assert task.killed.wait(10)
        return FakeFollow(iter([task.change(ended(TaskState.KILLED))]))

    monkeypatch.setattr(feed_module, "follow", follow)
    with pytest.raises(CellInterrupted, match="killed"):
        Cell(submit, store=lambda _: None).run()


def test_an_interrupt_of_a_submission_that_fails() -> None:
    waiting = threading.Event()

    def submit() -> Task | Batch:
        interrupt()
        waiting.wait(0.5)
        raise HostUnreachable("nobody")

    with pytest.raises(CellInterrupted, match="nothing was submitted"):
        Cell(submit, store=lambda _: None).run()


def test_an_interrupt_of_a_task_that_has_just_ended(
    run: Callable[[FakeTask, Events], None],
) -> None:
    def events(task: FakeTask) -> Iterator[Output | Change]:
        yield task.change(view())
        interrupt()
        assert task.killed.wait(10)
        yield task.change(ended(TaskState.COMPLETED))

    with pytest.raises(CellInterrupted, match=r"task 7: completed in 1\.2 s"):
        run(FakeTask(Conflict("it has ended")), events)


def test_a_kill_that_does_not_reach_the_host_is_told(
    run: Callable[[FakeTask, Events], None],
) -> None:
    def events(task: FakeTask) -> Iterator[Output | Change]:
        yield task.change(view())
        interrupt()
        assert task.killed.wait(10)

    with pytest.raises(CellInterrupted, match="may still run: nobody answers"):
        run(FakeTask(HostUnreachable("nobody answers")), events)


def test_a_task_that_does_not_go_is_told_after_a_while(
    run: Callable[[FakeTask, Events], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cell_module, "_GRACE", 0.1)
    left = threading.Event()

    def events(task: FakeTask) -> Iterator[Output | Change]:
        yield task.change(view())
        interrupt()
        left.wait(10)

    try:
        with pytest.raises(CellInterrupted, match="1 of 1 tasks have not ended yet"):
            run(FakeTask(), events)
    finally:
        left.set()


def test_a_second_interrupt_gives_up_waiting(run: Callable[[FakeTask, Events], None]) -> None:
    left = threading.Event()

    def events(task: FakeTask) -> Iterator[Output | Change]:
        yield task.change(view())
        interrupt()
        assert task.killed.wait(10)
        interrupt()
        left.wait(10)

    try:
        with pytest.raises(CellInterrupted, match="the kill was asked for"):
            run(FakeTask(), events)
    finally:
        left.set()
