from __future__ import annotations

import csv
import io
import json
import os
import pty
import random
import shlex
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from pyarrow import parquet

from hakuriver.cli.sweep.running import default_jobs
from support.processes import alive, clean_environment, run_hakuriver, wait_until
from support.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., subprocess.CompletedProcess[str]]

DEMO = "import sys; print('Args:', sys.argv[1:]); print('err', file=sys.stderr)"


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return clean_environment(tmp_path / "home")


@pytest.fixture
def hakurun(tmp_path: Path, env: dict[str, str]) -> Run:
    """Run ``hakurun`` in a folder of its own that has a script, ``demo.py``."""
    (tmp_path / "demo.py").write_text(DEMO)

    def run(*args: str, check: int | None = 0) -> subprocess.CompletedProcess[str]:
        return run_hakuriver("hakurun", *args, env=env, cwd=tmp_path, check=check)

    return run


def test_each_line_says_whose_it_is(hakurun: Run) -> None:
    done = hakurun("--parallel", "python3", "./demo.py", "span:{1..2}", "fixed", "span:[a,b]")
    assert sorted(done.stdout.splitlines()) == [
        "[1 1 a] Args: ['1', 'fixed', 'a']",
        "[2 1 b] Args: ['1', 'fixed', 'b']",
        "[3 2 a] Args: ['2', 'fixed', 'a']",
        "[4 2 b] Args: ['2', 'fixed', 'b']",
    ]
    lines = done.stderr.splitlines()
    assert "program " in lines[0]
    assert "4 combinations" in lines[0]
    assert sum(line.endswith("] err") for line in lines) == 4
    assert "4 of 4 completed" in lines[-1]


def test_unquoted_in_bash_it_is_the_same_or_stops(
    tmp_path: Path, env: dict[str, str], hakurun: Run
) -> None:
    def bash(words: str, code: int) -> subprocess.CompletedProcess[str]:
        line = f"{shlex.quote(sys.executable)} -m hakuriver hakurun --parallel {words}"
        done = subprocess.run(
            ["bash", "-c", line], env=env, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stderr
        return done

    quoted = hakurun("python3", "demo.py", "span:{1..2}", "fixed", "span:[a,b]").stdout
    unquoted = bash("python3 demo.py span:{1..2} fixed span:[a,b]", 0)
    assert sorted(unquoted.stdout.splitlines()) == sorted(quoted.splitlines())
    assert "read span:1 span:2 as 'span:{1..2}'" in unquoted.stderr
    stopped = bash("python3 demo.py span:{1..9} 'two  blanks'", 2)
    assert stopped.stdout == ""
    pasted = stopped.stderr.splitlines()[-1].strip()
    assert pasted == "hakurun --parallel python3 demo.py 'span:{1..9}' 'two  blanks'"


def test_a_malformed_span_exits_2_and_is_pointed_at(hakurun: Run) -> None:
    done = hakurun("true", "--x=span:{1..x}", check=2)
    said, word, caret = done.stderr.splitlines()
    assert "'x' is no number" in said
    assert word[caret.index("^")] == "x"
    assert caret.index("^") == word.rindex("x")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "give a program"),
        (["nothing-of-this-name"], "no program, script or module"),
        (["--zip", "true", "span:{1..2}", "span:{1..3}"], "one length"),
        (["--jobs", "0", "true"], "from 1 to"),
        (["--timeout", "soon", "true"], "no duration"),
        (["--name", "true", "true"], "--name"),
        (["results", "--extract", "(", "x"], "no sweep x"),
    ],
)
def test_mistakes_are_told_in_a_line(hakurun: Run, args: list[str], words: str) -> None:
    done = hakurun(*args, check=None)
    assert done.returncode in {1, 2}
    assert words in done.stderr.splitlines()[-1]


def test_failures_are_listed_and_results_shown(hakurun: Run) -> None:
    script = "echo loss=0.$1; exit $1"
    done = hakurun("--name", "mine", "sh", "-c", script, "sh", "span:{0..2}", check=1)
    assert "failed: [3 2] exit code 2" in done.stderr.splitlines()[-1]
    table = hakurun("results").stdout.splitlines()
    assert table[0].split() == ["run", "p1", "exit", "time", "last", "line"]
    assert table[3].split()[:3] == ["3", "2", "2"]
    rows = list(
        csv.DictReader(
            io.StringIO(hakurun("results", "mine", "--csv", "--extract", r"=(.*)").stdout)
        )
    )
    assert [row["extracted"] for row in rows] == ["0.0", "0.1", "0.2"]
    shown = json.loads(hakurun("results", "--json", "--failed").stdout)
    assert [record["run"] for record in shown] == [2, 3]
    hakurun("results", "--extract", "(", check=2)
    again = hakurun("--resume", "mine", check=1)
    assert again.stdout.splitlines() == ["[2 1] loss=0.1", "[3 2] loss=0.2"]
    changed = hakurun("--resume", "mine", "sh", "-c", script, "sh", "span:{0..3}", check=1)
    assert "another command" in changed.stderr
    assert hakurun("sh", "-c", "exit 7", check=7).stdout == ""


def test_parquet_holds_what_json_shows(hakurun: Run, tmp_path: Path) -> None:
    hakurun("sh", "-c", "echo ü; exit $1", "sh", "span:{0..1}", "span:[x,\udcff]", check=1)
    (tmp_path / "mod.py").write_text("def f(x: int): return {'x': [x, None]}\n")
    made = hakurun("results", "--parquet", "ends.parquet")
    assert made.stdout == ""
    shown = json.loads(hakurun("results", "--json").stdout)
    table = parquet.read_table(tmp_path / "ends.parquet")
    rows = table.to_pylist()
    # A parameter that is no text cannot be in a column of text.
    assert [record["p2"] for record in shown] == ["x", "\udcff"] * 2
    assert [row["p2"] for row in rows] == ["x", r"\udcff"] * 2
    assert [{**row, "p2": ""} for row in rows] == [{**record, "p2": ""} for record in shown]
    kinds = {name: str(table.schema.field(name).type) for name in ("run", "seconds", "exit_code")}
    assert kinds == {"run": "int64", "seconds": "double", "exit_code": "int64"}
    hakurun("mod:f", "span:{1..2}")
    hakurun("results", "--parquet", "values.parquet")
    values = parquet.read_table(tmp_path / "values.parquet")["value"].to_pylist()
    assert [json.loads(value) for value in values] == [{"x": [1, None]}, {"x": [2, None]}]
    refused = hakurun("results", "--parquet", "no/such/folder", check=2)
    assert "no/such/folder cannot be written" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_dry_run_runs_nothing_however_many(hakurun: Run) -> None:
    done = hakurun("--dry-run", "true", "--x", "span:{1..1000000}", "span:[a,b c]")
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["run", "x", "p2", "command"]
    assert lines[2].split(maxsplit=1) == ["2", "1   b c  true --x 1 'b c'"]
    assert lines[-1] == "… and 1999900 more"
    assert "no sweep" in hakurun("results", check=1).stderr


def test_a_million_combinations_take_no_memory(
    tmp_path: Path, env: dict[str, str], hakurun: Run
) -> None:
    del hakurun
    peaks = []
    for last in (400, 1_000_000):
        code = (
            "import resource, sys; from hakuriver.cli.hakurun import main\n"
            f"main(['--max-failures', '400', 'false', 'span:{{1..{last}}}'])\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], env=env, cwd=tmp_path, capture_output=True, check=True
        )
        peaks.append(int(done.stdout))
    assert peaks[1] - peaks[0] < 5000, peaks


def test_an_interrupt_ends_all_and_says_how_to_go_on(tmp_path: Path, env: dict[str, str]) -> None:
    script = f"echo $$ > {tmp_path}/$1.pid; test -e {tmp_path}/go || exec sleep 60"
    command = ["--jobs", "2", "sh", "-c", script, "sh", "span:{1..3}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "hakuriver", "hakurun", *command],
        env=env,
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    files = [tmp_path / "1.pid", tmp_path / "2.pid"]
    wait_until(lambda: all(file.exists() and file.read_text().strip() for file in files))
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1].splitlines()[-1]
    assert process.returncode == 130
    assert not any(alive(int(file.read_text())) for file in files)
    assert "3 are to be run" in said
    (tmp_path / "go").touch()
    back = shlex.split(said.split("`")[1])
    run_hakuriver(*back, env=env, cwd=tmp_path, check=0)


def test_progress_on_a_terminal_and_elsewhere(
    tmp_path: Path, env: dict[str, str], hakurun: Run
) -> None:
    command = ["hakurun", "--progress", "--parallel", "sh", "-c", "exit $0", "span:{0..3}"]
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "hakuriver", *command], env=env, cwd=tmp_path, stderr=slave
    )
    os.close(slave)
    try:
        shown = Terminal(master, process).read_to_end()
    finally:
        os.close(master)
    assert "] 4 of 4 done, 3 failed, 0 ms left" in shown
    assert "\x1b[K" not in hakurun(*command[1:], check=1).stderr


def test_how_many_at_once() -> None:
    assert default_jobs({}) == len(os.sched_getaffinity(0))
    assert default_jobs({"HAKURIVER_CORES": "7"}) == 7
    assert default_jobs({"HAKURIVER_CORES": "0"}) == len(os.sched_getaffinity(0))


def test_killed_at_any_moment_it_goes_on_where_it_was(tmp_path: Path, env: dict[str, str]) -> None:
    """What the journal has as done never runs again, and what it has not does run."""
    ran = tmp_path / "ran"
    journal = tmp_path / "j.jsonl"
    command = ["--journal", str(journal), "sh", "-c", f"echo $1 >> {ran}", "sh", "span:{1..300}"]
    rolls = random.Random(7)
    kills = 0
    for turn in range(8):
        resume = ["--resume"] if journal.exists() else []
        done_before = journal.read_bytes().count(b'"exit_code":0,') if resume else 0
        ran_before = len(ran.read_text().split()) if ran.exists() else 0
        process = subprocess.Popen(
            [sys.executable, "-m", "hakuriver", "hakurun", "--jobs", "2", *resume, *command],
            env=env,
            cwd=tmp_path,
            stderr=subprocess.DEVNULL,
        )
        goal = min(299, done_before + rolls.randrange(80))
        wait_until(
            lambda goal=goal, process=process: (
                process.poll() is not None  # type: ignore[misc]
                or (journal.exists() and journal.read_bytes().count(b'"exit_code":0,') >= goal)
            ),
            timeout=60,
            interval=0.001,
        )
        if turn < 7:
            kills += process.poll() is None
            process.kill()
        process.wait(timeout=60)
        repeated = set(ran.read_text().split()[ran_before:]) if ran.exists() else set()
        ended = [json.loads(line)["e"] + 1 for line in _whole(journal)[1 : done_before + 1]]
        assert not repeated & set(map(str, ended))
    assert kills >= 3
    ends = {json.loads(line)["e"] for line in _whole(journal)[1:]}
    assert ends == set(range(300))
    assert set(map(int, ran.read_text().split())) == set(range(1, 301))


def _whole(journal: Path) -> list[bytes]:
    return journal.read_bytes().splitlines() if journal.exists() else []
