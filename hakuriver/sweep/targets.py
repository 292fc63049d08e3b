"""What a sweep runs: which of a program, a script, a module or a function a name means.

The rule, the first that holds decides:

1. ``module:function`` (dotted names on both sides) is a function, unless a program has that name.
2. A name with a slash is that file: a program if it may be executed, else a Python script if it
   ends in ``.py``.
3. A name that a program in ``PATH`` has is that program, then one beside this Python (where
   ``hakuriver.client`` and its like are), also if a module has the name.
4. A file of this folder that ends in ``.py`` is a script.
5. A module that can be found from this folder is run as ``python -m`` does.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from dataclasses import dataclass
from enum import Enum
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING

from hakuriver.errors import InvalidRequest

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec

_DOTTED = r"[^\W\d]\w*(?:\.[^\W\d]\w*)*"
_FUNCTION = re.compile(rf"({_DOTTED}):({_DOTTED})\Z")
_MODULE = re.compile(rf"{_DOTTED}\Z")


class Kind(Enum):
    """What a target is; the value is the word for people."""

    PROGRAM = "program"
    SCRIPT = "script"
    MODULE = "module"
    FUNCTION = "function"


@dataclass(frozen=True, slots=True)
class Program:
    """What is run: `command` are the words before a combination's own, `place` is where it was.

    For a function, `command` is its name alone.
    """

    name: str
    kind: Kind
    command: tuple[str, ...]
    place: str

    def __str__(self) -> str:
        return f"{self.kind.value} {self.place}"


def find_program(name: str, *, here: bool = True) -> Program:
    """Return what `name` means, by the rule above.

    What is to run elsewhere than `here`, and is nothing here, is a program there.

    Raises:
        InvalidRequest: it is nothing that can be run.
    """
    try:
        return _find(name)
    except InvalidRequest:
        if here or not name or _FUNCTION.match(name):
            raise
        return Program(name, Kind.PROGRAM, (name,), f"{name} of the nodes")


def _find(name: str) -> Program:
    program = shutil.which(name) if os.sep not in name else None
    called = _FUNCTION.match(name)
    if called and program is None:
        # What is below may be made by the import, which only the one who calls it does.
        top = called.group(1).partition(".")[0]
        if top not in sys.stdlib_module_names:
            _module_of(top, name)
        return Program(name, Kind.FUNCTION, (name,), name)
    if os.sep in name:
        return _file(name)
    program = program or shutil.which(name, path=os.fspath(Path(sys.executable).parent))
    if program is not None:
        return Program(name, Kind.PROGRAM, (os.path.abspath(program),), program)  # noqa: PTH100 - a link stays one
    if name.endswith(".py") and Path(name).is_file():
        return Program(name, Kind.SCRIPT, (sys.executable, name), name)
    return _module(name)


def _file(name: str) -> Program:
    path = Path(name)
    if not path.is_file():
        raise InvalidRequest("", f"{name}: there is no such file")
    if os.access(path, os.X_OK):
        return Program(name, Kind.PROGRAM, (os.path.abspath(name),), name)  # noqa: PTH100
    if path.suffix == ".py":
        return Program(name, Kind.SCRIPT, (sys.executable, name), name)
    raise InvalidRequest("", f"{name}: may not be executed (chmod +x) and is no Python script")


def _module(name: str) -> Program:
    if not _MODULE.match(name):
        raise InvalidRequest("", f"{name}: there is no program, script or module of this name")
    spec = _module_of(name, name)
    if spec.submodule_search_locations is not None:
        inside = PathFinder.find_spec(f"{name}.__main__", spec.submodule_search_locations)
        if inside is None:
            raise InvalidRequest("", f"{name}: is a package without a __main__ module to run")
    return Program(name, Kind.MODULE, (sys.executable, "-m", name), f"{name} ({spec.origin})")


def _module_of(module: str, name: str) -> ModuleSpec:
    """Find a module without importing it, nor the packages that it is in."""
    path: list[str] | None = [str(Path.cwd()), *sys.path[1:]]
    spec: ModuleSpec | None = None
    parts = module.split(".")
    for at in range(len(parts)):
        spec = PathFinder.find_spec(".".join(parts[: at + 1]), path)
        if spec is None:
            break
        path = list(spec.submodule_search_locations or ())
    if spec is None:
        what = "module" if ":" in name else "program, script or module"
        raise InvalidRequest("", f"{name}: there is no {what} {module!r} here")
    return spec
