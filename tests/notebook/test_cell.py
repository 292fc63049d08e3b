"""Cells that run on the cluster, seen from the front end's side of a real kernel."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from support.processes import alive

if TYPE_CHECKING:
    from pathlib import Path

    from support.kernels import Kernel, Shown


def check_short_error(shown: Shown, name: str, *words: str) -> None:
    """Fail unless the cell failed with a few lines, none of them our own traceback."""
    assert shown.error_name == name, shown
    assert len(shown.error.splitlines()) < 10, shown.error
    assert "Traceback" not in shown.error
    assert "jupyter_ext" not in shown.error
    for word in words:
        assert word in shown.error, shown.error


def check_usage_error(shown: Shown, *words: str) -> None:
    """Fail unless the cell failed with one line on stderr."""
    assert len(shown.stderr.strip().splitlines()) == 1, shown
    assert shown.stderr.startswith("UsageError: ")
    for word in words:
        assert word in shown.stderr, shown.stderr


def test_output_stands_under_the_status_line(kernel: Kernel) -> None:
    shown = kernel.run("%%hakuriver --target node1\nprint('hello')")
    assert shown.stdout == "hello\n"
    assert re.fullmatch(r"✓ task \d+ · node1 · completed in [\d.]+ m?s", shown.status)
    assert shown.kinds.index("display_data") < shown.kinds.index("stream")
    assert shown.kinds.count("display_data") == 1
    assert "<div" in next(iter(shown.displays.values()))["text/html"]
    assert not shown.result


def test_output_appears_while_the_task_runs(kernel: Kernel, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    running = kernel.start(
        f"%%hakuriver --target node1 --env GATE={gate}\n"
        "import os, sys, time\n"
        "print('out', end='')\n"
        "print('err', end='', file=sys.stderr)\n"
        "while not os.path.exists(os.environ['GATE']): time.sleep(0.01)\n"
        "print(' and the rest')"
    )
    running.until("out")
    running.until("err")
    running.until("running")
    assert "completed" not in running.shown.status
    gate.touch()
    shown = running.finish()
    assert shown.stdout == "out and the rest\n"
    assert shown.stderr == "err"
    assert "completed" in shown.status


def test_a_line_appears_within_a_tenth_of_a_second(kernel: Kernel) -> None:
    cell = (
        "%%hakuriver --target node1\n"
        "import time\n"
        "for n in range(12): time.sleep(0.03 * (n % 5)); print(f'{time.time()}\\n', end='')"
    )
    halves: list[float] = []
    # Where the machine pauses or others are at work, once more.
    while len(halves) < 5 and not (halves and halves[-1] < 0.1):
        arrivals = kernel.run(cell).arrivals
        late = sorted(
            arrived - float(line) for arrived, text in arrivals for line in text.splitlines()
        )
        assert len(late) == 12
        halves.append(late[len(late) // 2])
    assert halves[-1] < 0.1, halves


def test_without_a_target_the_scheduler_picks(kernel: Kernel) -> None:
    shown = kernel.run("%%hakuriver --cores 1\nimport os; print(os.environ['HAKURIVER_NODE'])")
    assert shown.stdout.strip() in {"node1", "node2"}


def test_bars_colours_and_unicode_come_as_written(kernel: Kernel) -> None:
    shown = kernel.run(
        "%%hakuriver --target node1\n"
        "import sys\n"
        "for n in range(0, 101, 20):\n"
        "    sys.stderr.write(f'\\r{n:3}%|{\"█\" * (n // 20):5}|'); sys.stderr.flush()\n"
        "sys.stderr.write('\\n')\n"
        "print('\\x1b[32mgrün\\x1b[0m 🌊 漢字')"
    )
    bars = "".join(f"\r{n:3}%|{'█' * (n // 20):5}|" for n in range(0, 101, 20))
    assert shown.stderr == bars + "\n"
    assert shown.stdout == "\x1b[32mgrün\x1b[0m 🌊 漢字\n"


def test_a_cell_over_its_memory_limit_raises_as_such(kernel: Kernel) -> None:
    shown = kernel.run(
        "%%hakuriver --target node1 --memory 64M\nx = bytearray(200 << 20)", ok=False
    )
    check_short_error(shown, "TaskOutOfMemory", "memory limit", "of 64.00 MiB")


def test_a_failing_cell_raises_with_exit_code_and_last_lines(kernel: Kernel) -> None:
    shown = kernel.run(
        "%%hakuriver --target node2 --out failed\nprint('before')\nraise LookupError('not there')",
        ok=False,
    )
    check_short_error(
        shown, "TaskFailed", "on node2 failed: exit code 1", "LookupError: not there", "%hakuriver"
    )
    assert shown.stdout == "before\n"
    assert "LookupError: not there" in shown.stderr
    assert re.search(r"✗ task \d+ · node2 · failed after [\d.]+ m?s: exit code 1", shown.status)
    assert kernel.run("type(failed.exception()).__name__").result["text/plain"] == "'TaskFailed'"


def test_a_failure_may_show_in_the_status_line_alone(kernel: Kernel) -> None:
    shown = kernel.run("%%hakuriver --no-raise-error\nimport sys; sys.exit(4)")
    assert shown.status.endswith("exit code 4")


def test_a_cell_killed_by_a_signal_says_so(kernel: Kernel) -> None:
    shown = kernel.run("%%hakuriver\nimport os; os.kill(os.getpid(), 9)", ok=False)
    check_short_error(shown, "TaskFailed", "ended by signal 9")


def test_several_targets_mark_each_line_and_share_a_status_line(kernel: Kernel) -> None:
    shown = kernel.run(
        "%%hakuriver --target node1 --target node2 --out both\n"
        "import os\n"
        "for n in range(3): print(os.environ['HAKURIVER_BATCH_INDEX'], n)"
    )
    expected = {f"node{i + 1}: {i} {n}" for i in range(2) for n in range(3)}
    assert set(shown.stdout.splitlines()) == expected
    assert re.search(r"✓ batch \d+ · 2 tasks: 2 completed", shown.status)
    assert "node1 ✓" in shown.status
    assert "node2 ✓" in shown.status
    assert kernel.run("len(both), [r.exit_code for r in both.result()]").result["text/plain"] == (
        "(2, [0, 0])"
    )


def test_one_failure_of_several_targets_fails_the_cell(kernel: Kernel) -> None:
    shown = kernel.run(
        "%%hakuriver --target node1 --target node2\n"
        "import os, sys; sys.exit(3 * int(os.environ['HAKURIVER_BATCH_INDEX']))",
        ok=False,
    )
    check_short_error(shown, "TaskFailed", "node2 failed: exit code 3")
    assert "1 completed, 1 failed · node2 ✗ exit code 3" in shown.status


def test_a_refused_target_is_named(kernel: Kernel) -> None:
    shown = kernel.run("%%hakuriver --target nosuch\nprint()", ok=False)
    check_short_error(shown, "SubmissionRefused", "nosuch")
    shown = kernel.run("%%hakuriver -t node1 -t nosuch\nprint('ran')", ok=False)
    check_short_error(shown, "SubmissionRefused", "1 of 2 targets", "nosuch")
    assert "ran" in shown.stdout


def test_an_interrupt_kills_the_task_and_says_so(kernel: Kernel, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    running = kernel.start(
        f"%%hakuriver --target node1 --env PIDS={pids} --out stopped\n"
        "import os, subprocess, time\n"
        "child = subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
        "open(os.environ['PIDS'], 'w').write(f'{os.getpid()} {child.pid} ')\n"
        "print('started')\n"
        "time.sleep(600)"
    )
    running.until("started")
    kernel.interrupt()
    shown = running.finish()
    check_short_error(shown, "CellInterrupted", "killed after")
    assert shown.status.startswith("■ task ")
    assert shown.status.endswith("interrupted")
    for pid in pids.read_text().split():
        assert not alive(int(pid))
    assert kernel.run("stopped.status().status.value").result["text/plain"] == "'killed'"


def test_an_interrupt_of_a_waiting_cell_means_it_never_runs(kernel: Kernel, tmp_path: Path) -> None:
    kernel.run(
        "from hakuriver import Client\nholder = Client().run(['sleep', '600'], target='node1')"
    )
    try:
        running = kernel.start(
            f"%%hakuriver --target node1 --env MARK={tmp_path / 'mark'}\n"
            "import os; open(os.environ['MARK'], 'w')"
        )
        running.until("waiting: ")
        kernel.interrupt()
        shown = running.finish()
        check_short_error(shown, "CellInterrupted", "killed")
    finally:
        kernel.run("holder.kill()")
    assert kernel.run("type(holder.exception(20)).__name__").result["text/plain"] == "'TaskKilled'"
    assert not (tmp_path / "mark").exists()


def test_an_interrupt_kills_every_task_of_the_cell(kernel: Kernel) -> None:
    running = kernel.start(
        "%%hakuriver -t node1 -t node2\nimport time; print('on'); time.sleep(600)"
    )
    running.until("node1: on")
    running.until("node2: on")
    kernel.interrupt()
    check_short_error(running.finish(), "CellInterrupted", "2 of 2 tasks were killed")


def test_the_future_serves_await_result_logs_and_as_completed(kernel: Kernel) -> None:
    kernel.run("%%hakuriver -t node1 --out one\nprint('a'); print('b')")
    kernel.run("%%hakuriver -t node2 --out two\nprint('c')")
    assert kernel.run("(await one).exit_code").result["text/plain"] == "0"
    assert kernel.run("one.result().target").result["text/plain"] == "'node1'"
    assert kernel.run("list(one.logs(follow=True))").result["text/plain"] == "['a', 'b']"
    shown = kernel.run(
        "from concurrent.futures import as_completed\n"
        "sorted(task.result().target for task in as_completed([one, two]))"
    )
    assert shown.result["text/plain"] == "['node1', 'node2']"


def test_the_body_is_sent_as_it_is(kernel: Kernel) -> None:
    kernel.run("word = 'filled'")
    shown = kernel.run(
        "%%hakuriver --env WORD={word} --env 'PLAIN=$HOME'\n"
        "import os\nprint('{word} $HOME %n', os.environ['WORD'], os.environ['PLAIN'])"
    )
    assert shown.stdout == "{word} $HOME %n filled $HOME\n"


def test_other_interpreters(kernel: Kernel) -> None:
    shell = '%%hakuriver --shell\nx=$((40 + 2)); echo "answer $x" ${HOME:+home}'
    assert kernel.run(shell).stdout == "answer 42 home\n"
    awk = "%%hakuriver\n#!/usr/bin/awk -f\nBEGIN { print 6 * 7 }"
    assert kernel.run(awk).stdout == "42\n"
    kernel.run("import sys")
    python = "%%hakuriver --python {sys.executable}\nimport sys; print(sys.executable)"
    assert kernel.run(python).stdout == kernel.run("print(sys.executable)").stdout


def test_bad_lines_are_one_line(kernel: Kernel) -> None:
    for line, *words in (
        ("--nosuch", "--nosuch"),
        ("--memory lots", "--memory", "lots"),
        ("--target {nosuch}", "nosuch"),
        ("--target $nosuch", "nosuch"),
        ("--out 1x", "1x"),
        ("--shell --python x", "--python"),
        ("--name 'open", "quotation"),
    ):
        check_usage_error(kernel.run(f"%%hakuriver {line}\nprint()", ok=False), *words)


def test_a_flood_ends_whole_with_an_honest_note(kernel: Kernel) -> None:
    shown = kernel.run(
        "%%hakuriver --target node1\n"
        "import sys\n"
        "for block in range(0, 1_000_000, 10_000):\n"
        "    lines = [f'{n} {\"x\" * 20}\\n' for n in range(block, block + 10_000)]\n"
        "    sys.stdout.write(''.join(lines))\n"
        "print('the end')",
    )
    assert shown.stdout.startswith("0 xxx")
    assert shown.stdout.endswith("the end\n")
    note = r"… [\d,]+ lines skipped \(the whole log: %hakuriver logs \d+\) …"
    assert re.search(note, shown.stdout)
    assert len(shown.stdout) < 4_000_000
    assert max(len(text) for _, text in shown.streams) < 40_000


def test_a_long_text_below_a_flood_comes_whole(kernel: Kernel) -> None:
    shown = kernel.run("%%hakuriver -t node1\nfor n in range(30_000): print(n)")
    assert shown.stdout == "".join(f"{n}\n" for n in range(30_000))


def test_nothing_keeps_running_after_a_cell(kernel: Kernel) -> None:
    kernel.run("%%hakuriver\nprint()")
    shown = kernel.run(
        "import threading\n[t.name for t in threading.enumerate() if t.name == 'hakuriver-cell']"
    )
    assert shown.result["text/plain"] == "[]"
