"""The notebooks that come with the project, executed as `make demo` does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from support.processes import REPOSITORY, check_no_leftovers

if TYPE_CHECKING:
    from pathlib import Path


def command(notebook: Path, output: Path) -> list[str]:
    return [sys.executable, "notebooks/execute.py", str(notebook), "--output-dir", str(output)]


def environment(mark: Path) -> dict[str, str]:
    """Return an environment by which everything that the run starts can be found."""
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "MARK": str(mark)}


def execute(notebook: Path, output: Path, mark: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(notebook, output),
        cwd=REPOSITORY,
        env=environment(mark),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def read(path: Path) -> dict[str, Any]:
    notebook: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return notebook


def notebook_of(*sources: str) -> str:
    """Return a notebook of code cells as its file holds it."""
    cells: list[dict[str, Any]] = [
        {
            "cell_type": "code",
            "id": f"cell-{number}",
            "metadata": {},
            "execution_count": None,
            "outputs": [],
            "source": source,
        }
        for number, source in enumerate(sources)
    ]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return json.dumps(
        {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    )


@pytest.mark.timeout(120)
def test_the_quickstart_runs(tmp_path: Path) -> None:
    done = execute(REPOSITORY / "notebooks" / "quickstart.ipynb", tmp_path / "out", tmp_path)
    assert done.returncode == 0, done.stderr
    for words in ("[1/", "hello from node1", "names so far", "[figure]", "KeyError", "is down"):
        assert words in done.stdout
    assert "behind: step 4 of 4" in done.stdout
    assert "first output after" in done.stdout
    cells = read(tmp_path / "out" / "quickstart.ipynb")["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    page = (tmp_path / "out" / "quickstart.html").read_text("utf-8")
    assert 'src="http' not in page
    assert "completed in" in page
    check_no_leftovers(tmp_path)


@pytest.mark.timeout(120)
def test_the_sweep_runs(tmp_path: Path) -> None:
    done = execute(REPOSITORY / "notebooks" / "sweep.ipynb", tmp_path / "out", tmp_path)
    assert done.returncode == 0, done.stderr
    for words in ("9 of 9", "first of green", "6 squared is 36, on node", "6 results", "is down"):
        assert words in done.stdout
    assert "['node1', 'node2']" in done.stdout
    cells = read(tmp_path / "out" / "sweep.ipynb")["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    check_no_leftovers(tmp_path)


@pytest.mark.timeout(120)
def test_a_notebook_that_fails_is_told_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "failing.ipynb"
    path.write_text(
        notebook_of(
            "%load_ext hakuriver\n%hakuriver up",
            "%%hakuriver\nimport sys; sys.exit(3)",
            "print('never')",
        ),
        "utf-8",
    )
    done = execute(path, tmp_path / "out", tmp_path)
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "exit code 3" in done.stderr
    assert (tmp_path / "out" / "failing.html").exists()
    assert read(tmp_path / "out" / "failing.ipynb")["cells"][2]["outputs"] == []
    check_no_leftovers(tmp_path)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_leaves_no_cluster(tmp_path: Path, number: signal.Signals) -> None:
    path = tmp_path / "long.ipynb"
    path.write_text(
        notebook_of(
            "%load_ext hakuriver\n%hakuriver up",
            "%%hakuriver\nimport time; print('it ' + 'runs'); time.sleep(600)",
        ),
        "utf-8",
    )
    with subprocess.Popen(
        command(path, tmp_path / "out"),
        cwd=REPOSITORY,
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert any("it runs" in line for line in process.stdout)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    # The kernel may have said something of its own before.
    last = err.splitlines()[-1]
    assert last.startswith("execute.py: the kernel ended before the notebook did")
    assert "notebooks/execute.py" not in err
    check_no_leftovers(tmp_path)


def test_shipped_notebooks_hold_no_outputs_and_name_their_kernel() -> None:
    for path in (REPOSITORY / "notebooks").glob("*.ipynb"):
        notebook = read(path)
        assert notebook["metadata"]["kernelspec"]["name"] == "python3"
        for cell in notebook["cells"]:
            assert not cell.get("outputs")
            assert cell.get("execution_count") is None
