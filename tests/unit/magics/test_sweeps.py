from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

import pytest

from hakuriver.errors import InvalidRequest
from hakuriver.sweep.records import Started
from jupyter_ext.magics import sweeps
from jupyter_ext.magics.errors import CellInterrupted
from jupyter_ext.magics.sweeps import cell_command, kind_of, run_line

if TYPE_CHECKING:
    from hakuriver.sweep.sweep import Sweep
    from jupyter_ext.magics.sweep_view import SweepView


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("a=span:{1..3}", "int"),
        ("a=-4", "int"),
        ("a=span:{0.1..0.5..0.1}", "float"),
        ("a=span:[1,2.5,1e-3]", "float"),
        ("a=span:[1,two]", "str"),
        ("a=span:{01..10}", "str"),
        ("a=nan", "str"),
        ("a=", "str"),
        ("a=1_000", "str"),
    ],
)
def test_the_values_of_a_parameter_are_of_one_kind(word: str, kind: str) -> None:
    assert kind_of(word) == kind


def test_the_program_of_a_cell_gets_it_whole() -> None:
    body = "import json\nprint(json.dumps([lr, n, 'ü\\n', __name__]))\n"
    command = cell_command(body, ["lr=0.5", "n=3"])
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=50)
    assert json.loads(done.stdout) == [0.5, 3, "ü\n", "__main__"]


def test_a_traceback_shows_the_cells_own_lines() -> None:
    done = subprocess.run(
        cell_command("x = 1\ny = x / 0  # here\n", ["n=3"]),
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert done.returncode == 1
    assert 'File "<cell>", line 2' in done.stderr
    assert "y = x / 0  # here" in done.stderr


def test_a_cell_that_is_too_long_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="too long"):
        cell_command("#" * 100_000, ["n=1"])


@pytest.mark.parametrize(
    ("options", "said", "shown"),
    [("", "interrupted; 2 are", "stopped"), ("--on node1", "submitted go on", "left running")],
)
def test_an_interrupt_says_what_becomes_of_what_runs(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: str,
    said: str,
    shown: str,
) -> None:
    def interrupted(made: Sweep, view: SweepView) -> None:
        assert (made.cluster is None) == (not options)
        view.take(Started(0, 1))
        raise KeyboardInterrupt

    monkeypatch.setattr(sweeps, "_run", interrupted)
    with pytest.raises(CellInterrupted, match=said):
        run_line(f"{options} true span:{{1..2}}", {}, lambda *_: None)
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("  1"))
    assert shown in row


def test_a_dry_run_heads_its_table_like_all_others() -> None:
    shown = run_line("--dry-run true Lr=span:{1..2}", {}, lambda *_: None)
    assert repr(shown).splitlines()[0].split() == ["run", "Lr"]
