from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from support.processes import alive, check_no_leftovers, processes_of

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("trace", ["directory", "variable", "argument", "output"])
def test_a_process_with_a_trace_of_the_folder_is_found_and_ended(
    tmp_path: Path, trace: str
) -> None:
    more = [str(tmp_path)] if trace == "argument" else []
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(60)", *more],
            cwd=tmp_path if trace == "directory" else "/",
            env={"X": str(tmp_path / "x")} if trace == "variable" else {},
            stdout=log if trace == "output" else subprocess.DEVNULL,
            start_new_session=True,
        )
    try:
        assert process.pid in processes_of(tmp_path)
        with pytest.raises(AssertionError, match="left behind"):
            check_no_leftovers(tmp_path, timeout=0.1)
        process.wait(60)
        assert not alive(process.pid)
    finally:
        process.kill()
        process.wait()
