from __future__ import annotations

import os
import signal
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from hakuriver import Sweep
from hakuriver.errors import ConfigError, Conflict, InvalidRequest, NotFound
from hakuriver.sweep.journal import find_journal
from hakuriver.sweep.records import Ended, Output, Started
from support.processes import alive, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from hakuriver.sweep.records import Event

FUNCTIONS = """
import os, time
def double(x: int): print("got", x); return 2 * x
def ends(how): os._exit(int(how))
def pid(x): return os.getpid()
def waits(x): time.sleep(60)
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to be in, where the journals lie too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "functions_here.py").write_text(FUNCTIONS)
    return tmp_path


def shell(script: str, *words: str) -> list[str]:
    return ["sh", "-c", script, "sh", *words]


def codes(sweep: Sweep) -> list[int]:
    return [record["exit_code"] for record in sweep.results()]


def test_a_record_for_each_combination() -> None:
    sweep = Sweep(shell('echo "$@"; exit $1', "span:{0..1}", "--x=span:[a,b]"), jobs=2)
    results = sweep.run()
    assert [(record["run"], record["p1"], record["x"]) for record in results] == [
        (1, "0", "a"),
        (2, "0", "b"),
        (3, "1", "a"),
        (4, "1", "b"),
    ]
    assert [record["exit_code"] for record in results] == [0, 0, 1, 1]
    assert results[3]["last_line"] == "1 --x=b"
    assert 0 < results[0]["seconds"] < 30
    assert len(results.failed) == 2
    assert (sweep.done, sweep.failed) == (2, 2)


def test_output_comes_in_whole_lines() -> None:
    script = "for i in 1 2 3; do printf $1; printf $1; echo; done; printf rest; echo err >&2"
    events = list(Sweep(shell(script, "span:[a,b]"), jobs=2).events())
    outputs = [event for event in events if isinstance(event, Output)]
    assert all(output.lines.endswith(b"\n") for output in outputs)
    for index, name in enumerate((b"aa", b"bb")):
        mine = [each for each in outputs if each.index == index]
        out = b"".join(each.lines for each in mine if each.stream == "stdout")
        assert out == name + b"\n" + name + b"\n" + name + b"\nrest\n"
        assert b"".join(each.lines for each in mine if each.stream == "stderr") == b"err\n"


def test_as_many_at_once_as_was_said() -> None:
    running = most = 0
    for event in Sweep(shell("sleep 0.05", "span:{1..6}"), jobs=3).events():
        running += isinstance(event, Started)
        running -= isinstance(event, Ended)
        most = max(most, running)
    assert most == 3


def test_arguments_reach_the_program_byte_for_byte(here: Path) -> None:
    (here / "values").write_bytes(b"\xff $HOME '\"\n\xc3\xa4%n\n")
    script = 'printf "%s|" "$1" "$2"; cat'
    results = Sweep(shell(script, "span:@values", "")).run()
    assert results[1]["last_line"] == "ä%n||"
    assert results[0]["last_line"] == "\ufffd $HOME '\"||"


def test_what_cannot_be_started_fails(here: Path) -> None:
    script = here / "script"
    script.write_text("#!/nowhere/at/all\n")
    script.chmod(0o755)
    result = Sweep(["./script", "x"]).run()[0]
    assert result["exit_code"] == 127
    assert "./script cannot be started: No such file" in result["reason"]
    script.write_text("echo ran by sh $1\n")
    assert Sweep(["./script", "x"]).run()[0]["last_line"] == "ran by sh x"
    too_long = Sweep(["true", "x" * (1 << 18)]).run()[0]
    assert (too_long["exit_code"], "too long" in too_long["reason"]) == (126, True)


@pytest.mark.parametrize("jobs", [1, 2])
def test_one_that_cannot_be_started_does_not_keep_the_others_from_it(here: Path, jobs: int) -> None:
    (here / "out" / "1.out").mkdir(parents=True)
    sweep = Sweep(["functions_here:double", "span:{1..3}"], out_dir="out", jobs=jobs)
    sweep.run()
    assert codes(sweep) == [126, 0, 0]


def test_retries(here: Path) -> None:
    script = f"test -e {here}/$1 || {{ touch {here}/$1; exit 3; }}"
    sweep = Sweep(shell(script, "span:{1..2}"), retries=1)
    events = [event for event in sweep.events() if isinstance(event, Ended)]
    assert [(event.exit_code, event.again) for event in events].count((3, True)) == 2
    assert [record["attempts"] for record in sweep.results()] == [2, 2]
    assert codes(sweep) == [0, 0]


def test_at_too_many_failures_the_rest_is_ended_and_left_for_later() -> None:
    script = "test $1 -gt 2 && exec sleep 60; exit 1"
    sweep = Sweep(shell(script, "span:{1..9}"), jobs=3, max_failures=2)
    sweep.run()
    assert sweep.stopped
    assert [record["run"] for record in sweep.results()] == [1, 2]
    assert len(list(sweep.missing())) == 9


def test_a_time_limit_ends_the_whole_tree(here: Path) -> None:
    inner = f"echo $$ > {here}/new; mv {here}/new {here}/pid; sleep 60"
    script = f"trap '' TERM; setsid sh -c '{inner}' & sleep 60"
    # The longer ones are for a machine that has not come to start it by then.
    for limit in (0.3, 2.5, 9.5):
        record = Sweep(shell(script, "x"), timeout=limit, grace=0.1).run()[0]
        if (here / "pid").exists():
            break
    assert record["exit_code"] == -signal.SIGKILL
    assert record["reason"] == f"timed out after {limit} s"
    pid = int((here / "pid").read_text())
    wait_until(lambda: not alive(pid))


def test_what_a_program_leaves_does_not_hold_it_up(here: Path) -> None:
    records = Sweep(shell(f"sleep 60 & echo $! > {here}/pid; echo out")).run()
    assert (records[0]["exit_code"], records[0]["last_line"]) == (0, "out")
    assert records[0]["seconds"] < 20
    pid = int((here / "pid").read_text())
    wait_until(lambda: not alive(pid))


def test_files_instead_of_pipes(here: Path) -> None:
    for command in (
        shell("echo got $1", "span:{1..10}"),
        ["functions_here:double", "span:{1..10}"],
    ):
        results = Sweep(command, out_dir=here / "out", jobs=2).run()
        assert (here / "out" / "07.out").read_text() == "got 7\n"
        assert (here / "out" / "07.err").read_text() == ""
        assert results[6]["last_line"] == "got 7"


def test_cancel_ends_what_runs() -> None:
    sweep = Sweep(shell("echo $$; exec sleep 60", "span:{1..4}"), jobs=2)
    pids: list[int] = []

    def note(event: Event) -> None:
        if isinstance(event, Output):
            pids.append(int(event.lines))
        if len(pids) == 2:
            threading.Thread(target=sweep.cancel).start()

    assert len(sweep.run(note)) == 0
    assert sweep.stopped
    assert not any(map(alive, pids))


def test_leaving_the_events_ends_what_runs() -> None:
    events = Sweep(shell("echo $$; exec sleep 60", "span:{1..4}"), jobs=2).events()
    pid = next(int(event.lines) for event in events if isinstance(event, Output))
    events.close()
    assert not alive(pid)


def test_a_function_is_imported_once_a_process() -> None:
    results = Sweep(["functions_here:pid", "span:{1..20}"], jobs=2).run()
    assert 1 <= len({record["value"] for record in results}) <= 2
    doubled = Sweep(["functions_here:double", "span:{1..3}"]).run()
    assert [record["value"] for record in doubled] == [2, 4, 6]
    assert [record["last_line"] for record in doubled] == ["got 1", "got 2", "got 3"]


def test_a_process_that_ends_in_a_call_fails_that_call_alone() -> None:
    results = Sweep(["functions_here:ends", "span:[3,0,4]"], jobs=1).run()
    assert [record["exit_code"] for record in results] == [3, 1, 4]
    assert "ended within the call" in results[0]["reason"]
    mixed = Sweep(["functions_here:waits", "span:{1..2}"], jobs=2, timeout=0.5).run()
    assert [record["reason"] for record in mixed] == ["timed out after 0.5 s"] * 2


def test_resume_runs_what_is_missing_or_failed(here: Path) -> None:
    command = shell(f"echo $1 >> {here}/ran; test $1 != 2 || test -e {here}/ok", "span:{1..4}")
    first = Sweep(command, name="mine", max_failures=1)
    first.run()
    (here / "ok").touch()
    again = Sweep.resume(command=command)
    assert again.header == first.header
    assert again.done == 1
    assert [record["run"] for record in again.run()] == [1, 2, 3, 4]
    assert (here / "ran").read_text().split() == ["1", "2", "2", "3", "4"]
    assert len(list(Sweep.resume("mine").missing())) == 0
    Sweep.resume(first.header.sweep_id).run()
    assert (here / "ran").read_text().split() == ["1", "2", "2", "3", "4"]


def test_resume_refuses_what_is_not_the_same(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "values").write_text("a\nb\n")
    command = ["true", "span:@values"]
    sweep = Sweep(command, name="mine")
    sweep.run()
    with pytest.raises(Conflict, match="another command"):
        Sweep.resume("mine", command=["true", "span:[a,b]"])
    with pytest.raises(NotFound, match="of this command"):
        Sweep.resume(command=["false", "span:[a,b]"])
    with pytest.raises(NotFound, match="no sweep has the id or name 'mein'"):
        Sweep.resume(command=["mein"])
    (here / "values").write_text("a\nc\n")
    with pytest.raises(Conflict, match="a file has changed"):
        Sweep.resume("mine")
    assert sweep.path == find_journal("mine")[0]
    monkeypatch.chdir("/")
    with pytest.raises(Conflict, match="go there first"):
        Sweep.resume("mine")
    with pytest.raises(NotFound, match="no sweep other"):
        Sweep.resume("other")


def test_what_a_killed_run_left_is_ended_first(here: Path) -> None:
    code = (
        "from hakuriver import Sweep\nimport os, signal\n"
        f"events = Sweep(['sh', '-c', 'echo $$ > {here}/pid; echo x; exec sleep 60'],"
        f" journal='{here}/j.jsonl').events()\n"
        "next(events), next(events)\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", code]) == -9
    pid = int((here / "pid").read_text())
    assert alive(pid)
    sweep = Sweep.resume(journal=here / "j.jsonl")
    events = sweep.events()
    next(events)
    wait_until(lambda: not alive(pid))
    assert sweep.leftovers == 1
    events.close()


def test_a_journal_is_found_by_its_path(here: Path) -> None:
    sweep = Sweep(["true"], journal="j")
    sweep.run()
    for wanted in ("j", "./j", str(here / "j")):
        assert find_journal(wanted)[1] == sweep.header
    with pytest.raises(NotFound, match="no sweep yet"):
        find_journal(None)


def test_options_that_make_no_sense() -> None:
    with pytest.raises(InvalidRequest, match="jobs"):
        Sweep(["true"], jobs=0)
    with pytest.raises(InvalidRequest, match="retries"):
        Sweep(["true"], retries=-1)
    with pytest.raises(InvalidRequest, match="is empty"):
        Sweep([])


def test_a_frame_is_one_of_pandas(monkeypatch: pytest.MonkeyPatch) -> None:
    results = Sweep(["true", "span:{1..2}"]).run()
    assert list(results.frame()["exit_code"]) == [0, 0]
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ConfigError, match="pip install pandas"):
        results.frame()
