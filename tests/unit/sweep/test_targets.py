from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from hakuriver.errors import InvalidRequest
from hakuriver.sweep.targets import Kind, find_program

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to be in, whose ``bin`` is in PATH."""
    (tmp_path / "bin").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    return tmp_path


def program(path: Path) -> None:
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)


def test_a_program_goes_before_a_module_of_its_name(here: Path) -> None:
    (here / "thing.py").write_text("")
    assert find_program("thing").kind is Kind.MODULE
    program(here / "bin" / "thing")
    found = find_program("thing")
    assert (found.kind, found.command) == (Kind.PROGRAM, (str(here / "bin" / "thing"),))
    assert str(here / "bin" / "thing") in str(found)


def test_commands_beside_this_python_are_found(here: Path) -> None:
    del here
    assert find_program("hakuriver.client").kind is Kind.PROGRAM


def test_a_module_is_run_as_python_does(here: Path) -> None:
    (here / "pack").mkdir()
    (here / "pack" / "__init__.py").write_text("raise SystemExit('imported')")
    (here / "pack" / "part.py").write_text("")
    assert find_program("pack.part").command == (sys.executable, "-m", "pack.part")
    with pytest.raises(InvalidRequest, match="without a __main__"):
        find_program("pack")
    (here / "pack" / "__main__.py").write_text("")
    assert find_program("pack").kind is Kind.MODULE


def test_functions_and_scripts(here: Path) -> None:
    (here / "mod.py").write_text("")
    assert find_program("mod:function").kind is Kind.FUNCTION
    assert find_program("os.path:join").kind is Kind.FUNCTION
    for name in ("mod.py", "./mod.py"):
        assert find_program(name).command == (sys.executable, name)
    program(here / "mod.py")
    assert find_program("./mod.py").command == (str(here / "mod.py"),)
    program(here / "bin" / "mod:function")
    assert find_program("mod:function").kind is Kind.PROGRAM


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nothing_of_this_name", "no program, script or module"),
        ("no-module", "no program, script or module"),
        ("nothing_here:function", "no module 'nothing_here'"),
        ("./missing", "no such file"),
        ("./plain", "chmod"),
        ("", "no program"),
    ],
)
def test_what_cannot_be_run_is_refused_by_name(here: Path, name: str, words: str) -> None:
    (here / "plain").write_text("")
    with pytest.raises(InvalidRequest, match=words):
        find_program(name)


def test_what_is_nothing_here_may_be_a_program_elsewhere() -> None:
    assert find_program("nothing-of-this-name", here=False).command == ("nothing-of-this-name",)
    assert find_program("./missing", here=False).kind is Kind.PROGRAM
    with pytest.raises(InvalidRequest, match="no module"):
        find_program("nothing_here:function", here=False)
