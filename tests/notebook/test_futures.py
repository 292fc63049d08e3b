"""The commands that make a future, take one up or wait for one, in a real kernel."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from support.kernels import Kernel

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COUNTING = (
    "import os, sys, time\n"
    "print('first', flush=True); print('err', file=sys.stderr)\n"
    "while not os.path.exists(os.environ['GATE']): time.sleep(0.01)\n"
    "print('last')\n"
    "sys.exit(int(os.environ.get('CODE', 0)))"
)


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    """A file that lets tasks which count end; it is there at the end."""
    gate = tmp_path / "gate"
    yield gate
    gate.touch()


def submit(kernel: Kernel, gate: Path, name: str, options: str = "-t node1") -> str:
    """Submit a task that counts, as the variable `name`; return its id."""
    kernel.run(
        f"import sys, shlex\nCOUNTING = shlex.quote({COUNTING!r})\n"
        f"{name} = %hakuriver submit {options} --env GATE={gate} -- "
        "{sys.executable} -c {COUNTING}"
    )
    return kernel.run(f"print({name}.task_id)").stdout.strip()


def test_submit_returns_a_future_that_is_a_small_table(kernel: Kernel) -> None:
    shown = kernel.run("%hakuriver submit -t node1 --name small -- echo a '' '$HOME' --cores")
    assert re.match(r"<Task \d+ on node1: ", shown.result["text/plain"])
    assert "<table" in shown.result["text/html"]
    assert not shown.stdout
    assert not shown.displays
    waited = kernel.run("%hakuriver wait")
    assert "exit_code=0" in waited.result["text/plain"]
    assert re.fullmatch(r"✓ task \d+ · node1 · completed in [\d.]+ m?s", waited.status)
    assert not waited.stdout
    shown = kernel.run("future = %hakuriver last\nprint(future.text(), future.view.arguments)")
    assert shown.stdout == "a  $HOME --cores\n ['a', '', '$HOME', '--cores']\n"


def test_submit_to_several_targets_is_a_batch(kernel: Kernel) -> None:
    shown = kernel.run("%hakuriver submit -t node1 -t node2 -- true")
    assert "<Batch " in shown.result["text/plain"]
    shown = kernel.run("results = %hakuriver wait\nsorted(r.target for r in results)")
    assert shown.result["text/plain"] == "['node1', 'node2']"
    assert "2 tasks: 2 completed" in shown.status


def test_attach_shows_the_log_from_its_start_to_its_end(kernel: Kernel, gate: Path) -> None:
    task_id = submit(kernel, gate, "task")
    running = kernel.start(f"again = %hakuriver attach {task_id}\nprint(type(again).__name__)")
    running.until("first")
    running.until("running")
    gate.touch()
    shown = running.finish()
    assert shown.stdout == "first\nlast\nTask\n"
    assert shown.stderr == "err\n"
    assert shown.status.startswith(f"✓ task {task_id} · node1 · completed")
    once_more = kernel.run("%hakuriver attach {again.task_id}")
    assert (once_more.stdout, once_more.stderr) == ("first\nlast\n", "err\n")
    assert task_id in once_more.result["text/plain"]
    assert kernel.run("f = %hakuriver last\nprint(f.task_id)").stdout == f"{task_id}\n"


def test_an_interrupt_of_attach_leaves_the_task(kernel: Kernel, gate: Path) -> None:
    task_id = submit(kernel, gate, "left")
    running = kernel.start(f"%hakuriver attach {task_id}")
    running.until("first")
    kernel.interrupt()
    shown = running.finish()
    assert shown.error_name == "CellInterrupted"
    assert f"%hakuriver attach {task_id}" in shown.error
    assert f"%hakuriver kill {task_id}" in shown.error
    assert shown.status.endswith("running · interrupted, goes on")
    gate.touch()
    assert kernel.run("left.result(20).exit_code").result["text/plain"] == "0"


def test_a_failed_task_is_attached_without_an_error(kernel: Kernel, gate: Path) -> None:
    gate.touch()
    task_id = submit(kernel, gate, "failing", "-t node1 --env CODE=3")
    shown = kernel.run(f"seen = %hakuriver attach {task_id}")
    assert shown.stdout == "first\nlast\n"
    assert shown.status.endswith("exit code 3")
    assert kernel.run("type(seen.exception()).__name__").result["text/plain"] == "'TaskFailed'"


def test_attach_behind_later_cells(kernel: Kernel, gate: Path) -> None:
    task_id = submit(kernel, gate, "behind")
    running = kernel.start(f"%hakuriver attach --detach {task_id}")
    assert task_id in running.finish().result["text/plain"]
    running.until("first")
    assert kernel.run("print('later')").stdout == "later\n"
    gate.touch()
    assert running.until("completed").stdout == "first\nlast\n"


def test_attach_takes_up_a_whole_batch(kernel: Kernel) -> None:
    kernel.run("%%hakuriver -t node1 -t node2 --detach --out pair\nprint('hello')")
    shown = kernel.run("%hakuriver attach {pair.batch_id}")
    assert sorted(shown.stdout.splitlines()) == ["node1: hello", "node2: hello"]
    assert "<Batch " in shown.result["text/plain"]
    assert "2 completed" in shown.status


def test_an_unknown_id_is_one_line(kernel: Kernel) -> None:
    for line in ("attach 12", "wait 12", "logs 12 --follow", "logs 12", "attach x"):
        shown = kernel.run(f"%hakuriver {line}", ok=False)
        # What is no id at all is told so.
        assert shown.error_name == ("InvalidRequest" if line.endswith("x") else "NotFound"), shown
        assert len(shown.error.splitlines()) == 1, shown.error


def test_wait_raises_as_a_cell_does(kernel: Kernel, gate: Path) -> None:
    gate.touch()
    task_id = submit(kernel, gate, "failing", "-t node1 --env CODE=3")
    shown = kernel.run("%hakuriver wait $failing.task_id", ok=False)
    assert shown.error_name == "TaskFailed"
    assert "exit code 3" in shown.error
    assert f"%hakuriver logs {task_id} --stderr" in shown.error
    assert shown.status.endswith("exit code 3")


def test_wait_for_several_and_its_interrupt(kernel: Kernel, gate: Path) -> None:
    ids = [submit(kernel, gate, f"one{n}", f"-t node{n}") for n in (1, 2)]
    running = kernel.start(f"%hakuriver wait {' '.join(ids)}")
    running.until("2 tasks: 2 running")
    kernel.interrupt()
    shown = running.finish()
    assert shown.error_name == "CellInterrupted"
    assert f"%hakuriver wait {' '.join(ids)}" in shown.error
    gate.touch()
    shown = kernel.run(f"results = %hakuriver wait {' '.join(ids)}\nlen(results)")
    assert shown.result["text/plain"] == "2"
    assert not shown.stdout


def test_logs_follow_one_stream(kernel: Kernel, gate: Path) -> None:
    task_id = submit(kernel, gate, "logged")
    running = kernel.start(f"%hakuriver logs {task_id} --follow")
    running.until("first")
    gate.touch()
    shown = running.finish()
    assert (shown.stdout, shown.stderr, shown.displays) == ("first\nlast\n", "", {})
    shown = kernel.run(f"%hakuriver logs {task_id} --stderr --follow --tail 1")
    assert shown.stdout == "err\n"


def test_an_interrupt_of_logs_leaves_the_task(kernel: Kernel, gate: Path) -> None:
    task_id = submit(kernel, gate, "logged")
    running = kernel.start(f"%hakuriver logs {task_id} --follow")
    running.until("first")
    kernel.interrupt()
    shown = running.finish()
    assert shown.error_name == "CellInterrupted"
    assert len(shown.error.splitlines()) == 1
    assert kernel.run("logged.status().status.value").result["text/plain"] == "'running'"


def test_a_cell_may_leave_its_task_at_an_interrupt(kernel: Kernel, gate: Path) -> None:
    running = kernel.start(
        f"%%hakuriver -t node1 --env GATE={gate} --on-interrupt detach --out kept\n{COUNTING}"
    )
    running.until("first")
    kernel.interrupt()
    shown = running.finish()
    assert not shown.ok
    assert shown.error_name == "CellInterrupted"
    task_id = kernel.run("print(kept.task_id)").stdout.strip()
    assert f"task {task_id} goes on; come back with %hakuriver attach {task_id}" in shown.error
    assert shown.status.endswith("running · interrupted, goes on")
    gate.touch()
    shown = kernel.run(f"%hakuriver attach {task_id}")
    assert shown.stdout == "first\nlast\n"
    assert "completed" in shown.status


def test_a_batch_that_is_left_names_the_way_back(kernel: Kernel, gate: Path) -> None:
    running = kernel.start(
        f"%%hakuriver -t node1 -t node2 --env GATE={gate} --on-interrupt detach\n{COUNTING}"
    )
    running.until("2 running")
    kernel.interrupt()
    shown = running.finish()
    batch_id = kernel.run("both = %hakuriver last\nprint(both.batch_id)").stdout.strip()
    assert f"%hakuriver attach {batch_id}" in shown.error
    assert f"%hakuriver kill-batch {batch_id}" in shown.error
    gate.touch()
    assert "2 completed" in kernel.run(f"%hakuriver wait {batch_id}").status


def test_a_restarted_kernel_takes_up_what_went_on(
    kernel: Kernel, gate: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    token = gate.with_name("token")
    kernel.run(
        "from hakuriver.client.endpoint import embedded_endpoint as e\nurl, token = e()\n"
        f"open({str(token)!r}, 'w').write(token)"
    )
    connect = f"%hakuriver connect {{url}} --token-file {token}"
    url = kernel.run("print(url)").stdout.strip()
    setup = f"%load_ext hakuriver\nurl = {url!r}\n{connect}"
    other = Kernel(tmp_path_factory.mktemp("nb2"))
    try:
        other.run(setup)
        running = other.start(
            f"%%hakuriver -t node1 --env GATE={gate} --detach --out f\n{COUNTING}"
        )
        running.until("first")
        task_id = other.run("print(f.task_id)").stdout.strip()
        other.restart()
        other.run(setup)
        assert other.run("f", ok=False).error_name == "NameError"
        running = other.start(f"f = %hakuriver attach {task_id}")
        running.until("first")
        gate.touch()
        shown = running.finish()
        assert shown.stdout == "first\nlast\n"
        assert "completed" in shown.status
        assert other.run("f.result().exit_code").result["text/plain"] == "0"
    finally:
        other.stop()
