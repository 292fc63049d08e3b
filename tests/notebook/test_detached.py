"""Cells whose output goes on filling while later cells run."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from support.kernels import Kernel, Running

STEPS = (
    "import os, sys, time\n"
    "for step in range(3):\n"
    "    while not os.path.exists(f\"{os.environ['GATE']}{step}\"): time.sleep(0.01)\n"
    "    print('step', step, flush=True); print('err', step, file=sys.stderr)\n"
)


def start(kernel: Kernel, gate: Path, line: str = "", body: str = STEPS) -> Running:
    """Start a detached cell, each step of which waits for a file; return it after its end."""
    running = kernel.start(f"%%hakuriver --detach --env GATE={gate} {line}\n{body}")
    shown = running.finish()
    assert shown.ok, shown
    # It has ended before the first gate was opened.
    assert "step" not in shown.stdout
    return running


def open_gate(gate: Path, step: int) -> None:
    gate.with_name(f"{gate.name}{step}").touch()


def test_output_goes_on_under_its_cell_while_later_cells_print(
    kernel: Kernel, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    running = start(kernel, gate, "--target node1 --out behind")
    assert running.shown.result["text/plain"].startswith("<Task ")
    assert "<table" in running.shown.result["text/html"]
    for step in range(3):
        later = kernel.start(
            f"import time\nprint('later', {step})\n"
            f"open('{gate}{step}', 'w').close()\n"
            f"while 'step {step}' not in behind.text(): time.sleep(0.02)\n"
            "print('end')"
        )
        running.until(f"step {step}\n")
        running.until(f"err {step}\n")
        shown = later.finish()
        assert shown.stdout == f"later {step}\nend\n"
        assert not shown.stderr
        assert not shown.displays
    shown = running.until("completed")
    assert shown.stdout == "step 0\nstep 1\nstep 2\n"
    assert shown.stderr == "err 0\nerr 1\nerr 2\n"
    assert re.fullmatch(r"✓ task \d+ · node1 · completed in [\d.]+ m?s", shown.status)
    assert kernel.run("behind.result().exit_code").result["text/plain"] == "0"


def test_two_detached_cells_keep_apart(kernel: Kernel, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    first = start(kernel, one, "-t node1", "import os; print('first')\n" + STEPS)
    second = start(kernel, two, "-t node2", "import os; print('second')\n" + STEPS)
    first.until("running")
    second.until("running")
    for step in range(3):
        open_gate(one, step)
        open_gate(two, step)
    for running, name in ((second, "second"), (first, "first")):
        shown = running.until("completed")
        assert shown.stdout == f"{name}\nstep 0\nstep 1\nstep 2\n"
        assert shown.stderr == "err 0\nerr 1\nerr 2\n"


def test_a_later_cell_cannot_capture_the_output(kernel: Kernel, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    running = start(kernel, gate, "-t node1 --out captured")
    for step in range(3):
        open_gate(gate, step)
    later = kernel.run(
        "%%capture taken\nimport time\nprint('mine')\ncaptured.result(30); time.sleep(0.3)"
    )
    assert not later.stdout
    shown = running.until("completed")
    assert shown.stdout == "step 0\nstep 1\nstep 2\n"
    assert kernel.run("taken.stdout, taken.stderr, taken.outputs").result["text/plain"] == (
        "('mine\\n', '', [])"
    )


def test_several_targets_go_on_with_their_names(kernel: Kernel, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    running = start(kernel, gate, "-t node1 -t node2 --out several")
    assert running.shown.result["text/plain"].startswith("<Batch ")
    for step in range(3):
        open_gate(gate, step)
    shown = running.until("2 completed")
    lines = shown.stdout.splitlines()
    assert sorted(lines) == sorted(f"node{n}: step {step}" for n in (1, 2) for step in range(3))
    assert kernel.run("[r.exit_code for r in several.result()]").result["text/plain"] == "[0, 0]"


def test_a_failure_is_told_by_the_status_line_alone(kernel: Kernel) -> None:
    running = kernel.start("%%hakuriver --bg -t node1\nimport sys; sys.exit(4)")
    assert running.finish().ok
    shown = running.until("failed after")
    assert shown.status.endswith("exit code 4")
    assert not shown.error
    assert kernel.run("print('well')").stdout == "well\n"


def test_a_submission_that_is_refused_fails_its_own_cell(kernel: Kernel) -> None:
    shown = kernel.run("%%hakuriver --detach -t nosuch\nprint()", ok=False)
    assert shown.error_name == "SubmissionRefused"
    assert "nosuch" in shown.error


def test_many_detached_cells_stay_whole_and_leave_nothing_behind(kernel: Kernel) -> None:
    body = "for n in range(2000): print(os.environ['HAKURIVER_TASK_ID'], n)"
    cells = [kernel.start(f"%%hakuriver --bg\nimport os\n{body}") for _ in range(6)]
    later = kernel.start("import time\nfor n in range(100): print(n); time.sleep(0.005)")
    for running in cells:
        task_id = running.until("completed").status.split()[2]
        assert running.shown.stdout == "".join(f"{task_id} {n}\n" for n in range(2000))
    assert later.finish().stdout == "".join(f"{n}\n" for n in range(100))
    names = kernel.run(
        "import threading\n"
        "for t in threading.enumerate():\n"
        "    if t.name in ('hakuriver-feed', 'hakuriver-detached'): t.join(30); print(t)"
    )
    assert "started" not in names.stdout


def test_unloading_leaves_the_task_and_says_so(kernel: Kernel, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    running = start(kernel, gate, "-t node1", "print('begun')\n" + STEPS)
    task_id = running.until("begun").history[0].split()[1]
    running.until("· running")
    try:
        kernel.run("%unload_ext hakuriver")
        running.until("running · no longer followed here")
    finally:
        kernel.run("%load_ext hakuriver\n%hakuriver up")
        for step in range(3):
            open_gate(gate, step)
    shown = kernel.run(f"%hakuriver attach {task_id}")
    assert shown.stdout == "begun\nstep 0\nstep 1\nstep 2\n"
