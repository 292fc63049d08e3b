"""`%hakurun` and `%%hakurun`, in a real kernel."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from support.processes import wait_until

if TYPE_CHECKING:
    from support.kernels import Kernel

_CELL = "%%hakurun --jobs 2 {options} lr=span:[0.1,0.2] n=span:{{1..2}} tag=run\n{body}"


def test_a_cell_runs_once_for_each_combination_with_its_parameters(kernel: Kernel) -> None:
    body = "assert type(lr) is float and type(n) is int\nprint(tag, lr * n, 'span:{not one}')"
    shown = kernel.run(_CELL.format(options="--out sweep", body=body))
    (display,) = shown.displays.values()
    assert "4 of 4" in display["text/plain"]
    assert "completed" in display["text/html"]
    assert "<progress" in display["text/html"]
    told = kernel.run(
        "print(type(sweep).__name__, list(sweep.lr), list(sweep.n), list(sweep.last_line))"
    ).stdout
    assert told.startswith("DataFrame ['0.1', '0.1', '0.2', '0.2'] ['1', '2', '1', '2']")
    assert "run 0.4 span:{not one}" in told


def test_the_value_of_a_line_is_a_frame(kernel: Kernel) -> None:
    shown = kernel.run("%hakurun echo span:{1..3}")
    assert "last_line" in shown.result["text/html"]
    # Names of the notebook are filled in, the braces of spans are not names.
    kernel.run("word = 'filled'")
    shown = kernel.run("frame = %hakurun echo {word} span:{01..02}\nprint(list(frame.last_line))")
    assert "['filled 01', 'filled 02']" in shown.stdout
    again = kernel.run("print(len(get_ipython().run_line_magic('hakurun', 'results')))")
    assert again.stdout.strip() == "2"


def test_a_failure_raises_its_first_words_and_can_be_resumed(kernel: Kernel) -> None:
    body = "import pathlib, sys\nif n == 2 and not pathlib.Path('mended').exists(): sys.exit(3)"
    shown = kernel.run(_CELL.format(options="", body=body), ok=False)
    assert shown.error_name == "SweepFailed"
    assert "2 of 4 combinations failed" in shown.error
    assert "Traceback" not in shown.error
    found = re.search(r"--resume (\S+)", shown.error)
    assert found is not None
    kernel.run("open('mended', 'w').close()")
    shown = kernel.run(f"frame = %hakurun --resume {found[1]}\nprint(list(frame.exit_code))")
    assert "[0, 0, 0, 0]" in shown.stdout


def test_an_interrupt_ends_what_runs_and_tells_the_way_back(kernel: Kernel) -> None:
    cell = kernel.start("%hakurun --jobs 2 sleep span:{1000..1003}")
    cell.until("2 running")
    kernel.interrupt()
    shown = cell.finish()
    assert not shown.ok
    assert "4 are to be run: %hakurun --resume" in shown.error


def test_tasks_that_an_interrupt_left_are_killed_by_the_line_it_tells(kernel: Kernel) -> None:
    cell = kernel.start("%hakurun --on node1 sleep span:{1000..1001}")
    cell.until("1 running")
    kernel.interrupt()
    told = cell.finish().error.strip()
    assert "2 are to be run: %hakurun --resume" in told
    line = told[told.index("%hakurun kill") :]
    sweep_id = line.split()[-1]
    assert "being ended of sweep" in kernel.run(line).stdout
    look = f"print({{task.status.value for task in client.tasks(name='{sweep_id}')}})"
    kernel.run("from hakuriver import Client\nclient = Client()")
    wait_until(lambda: kernel.run(look).stdout == "{'killed'}\n")
    kernel.run("client.close()")


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("%hakurun", "give a program"),
        ("%hakurun echo span:{1..", "1.."),
        ("%hakurun --jobs x echo", "whole number"),
        ("%hakurun kill no-such-sweep", "no sweep no-such-sweep"),
        ("%hakurun no-such-program span:{1..2}", "no-such-program"),
        ("%%hakurun 1x=span:{1..2}\nprint(1)", "NAME=VALUE"),
        ("%%hakurun span:{1..2}\nprint(1)", "NAME=VALUE"),
    ],
)
def test_a_mistake_is_told_in_a_line(kernel: Kernel, cell: str, words: str) -> None:
    shown = kernel.run(cell, ok=False)
    told = shown.error + shown.stderr
    assert words in told
    assert "Traceback" not in told


def test_a_dry_run_shows_the_combinations(kernel: Kernel) -> None:
    shown = kernel.run(_CELL.format(options="--dry-run", body="raise SystemExit(9)"))
    text = shown.result["text/plain"]
    assert text.splitlines()[0].split() == ["run", "lr", "n"]
    assert "0.2" in text
