from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from jupyter_ext.magics import load, unload

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[InteractiveShell]:
    # IPython leaves it untyped.
    make: Any = InteractiveShell
    config = Config()
    config.HistoryManager.enabled = False
    shell: InteractiveShell = make(config=config, ipython_dir=str(tmp_path))
    yield shell
    unload(shell)


def found(shell: InteractiveShell) -> list[object]:
    return [shell.magics_manager.magics[kind].get("hakuriver") for kind in ("line", "cell")]


def test_load_and_unload_leave_the_shell_as_it_was(shell: InteractiveShell) -> None:
    configurables = list(shell.configurables)
    registry = set(shell.magics_manager.registry)
    load(shell)
    assert all(found(shell))
    unload(shell)
    assert found(shell) == [None, None]
    assert shell.configurables == configurables
    assert set(shell.magics_manager.registry) == registry


def test_a_magic_that_stood_there_before_comes_back(shell: InteractiveShell) -> None:
    def other(line: str) -> None: ...

    shell.magics_manager.magics["line"]["hakuriver"] = other
    load(shell)
    assert found(shell)[0] is not other
    unload(shell)
    assert found(shell) == [other, None]


def test_both_may_be_called_twice(shell: InteractiveShell) -> None:
    load(shell)
    first = found(shell)
    load(shell)
    assert found(shell) == first
    unload(shell)
    unload(shell)
    assert found(shell) == [None, None]


def test_a_line_magic_sees_the_names_of_the_function_around_it(
    shell: InteractiveShell, capsys: pytest.CaptureFixture[str]
) -> None:
    load(shell)
    run_cell: Any = shell.run_cell
    run_cell(
        "def look(option):\n"
        "    get_ipython().run_line_magic('hakuriver', 'nodes {option}')\n"
        "look('--help')"
    )
    assert "usage: %hakuriver nodes" in capsys.readouterr().out
