from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

CODE = """
import sys
from hakuriver.cli.hakurun import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
print("LOADED", *sys.modules)
"""
#: Each takes longer to import than a short program takes to run.
SLOW = {
    *("msgspec", "tomllib", "hakuriver.config", "hakuriver.client", "hakuriver.model.tasks"),
    *("httpx", "asyncio", "ssl", "psutil", "fractions", "subprocess", "logging"),
}


@pytest.mark.parametrize(
    "words", [["true", "x"], ["builtins:len", "x"], ["--help"], ["results"]], ids=lambda one: one[0]
)
def test_what_runs_here_waits_for_no_import_that_it_has_no_use_for(
    words: list[str], tmp_path: Path
) -> None:
    env = {**os.environ, "XDG_STATE_HOME": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-c", CODE, *words], env=env, capture_output=True, text=True, check=True
    )
    loaded = run.stdout.partition("LOADED ")[2].split()
    assert "hakuriver.cli.hakurun" in loaded
    assert not SLOW & set(loaded)
