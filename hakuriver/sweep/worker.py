"""What calls a Python function for a sweep: a process that imports once and is used again.

With ``--once`` before the name it makes one call, whose arguments follow. Else it is run as
``python -P -m hakuriver.sweep.worker MODULE:FUNCTION``. Descriptor 3 brings the calls, a
JSON list of arguments a line; descriptor 4 takes an answer a line: ``{"code": …, "value": …}``.

The arguments are text, as a program would get them. A parameter that is annotated with ``int``,
``float``, ``bool`` or ``Path`` gets that, in every call; no value is guessed from how it looks.
Exit codes are those of a program: 0, 1 after an exception, or what ``SystemExit`` says.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import os
import sys
import traceback
from functools import reduce
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_CALLS = 3
_ANSWERS = 4
_MOST = 10_000
_USAGE = 2


class BadArgument(ValueError):  # noqa: N818 - it names what was given
    """A text that is none of its parameter's annotation, or does not fit the parameters."""


def _truth(text: str) -> bool:
    known = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    return known[text.lower()]


_CONVERSIONS: dict[object, Callable[[str], object]] = {
    int: int,
    float: float,
    bool: _truth,
    Path: Path,
}


def load(name: str) -> Callable[..., object]:
    """Import and return the function ``module:function``."""
    module, _, path = name.partition(":")
    found: Any = reduce(getattr, path.split("."), import_module(module))
    if not callable(found):
        raise TypeError(f"{name} cannot be called")
    return found  # type: ignore[no-any-return]


def converters(function: Callable[..., object]) -> Callable[[Sequence[str]], list[object]]:
    """Return what makes a call's arguments of texts, by the annotations of `function`.

    What it returns raises `BadArgument`.
    """
    try:
        signature = inspect.signature(function)
        hints = get_type_hints(function)
    except (TypeError, ValueError, NameError):
        return _as_they_are

    def convert(words: Sequence[str]) -> list[object]:
        try:
            bound = signature.bind(*words)
        except TypeError as error:
            raise BadArgument(str(error)) from None
        arguments: list[object] = []
        for name, value in bound.arguments.items():
            several = signature.parameters[name].kind is inspect.Parameter.VAR_POSITIONAL
            texts = value if several else (value,)
            arguments.extend(_converted(name, text, hints.get(name)) for text in texts)
        return arguments

    return convert


def _as_they_are(texts: Sequence[str]) -> list[object]:
    return list(texts)


def _converted(name: str, text: str, hint: object) -> object:
    conversion = _CONVERSIONS.get(hint)
    if conversion is None:
        return text
    try:
        return conversion(text)
    except (ValueError, KeyError):
        kind = getattr(hint, "__name__", str(hint))
        raise BadArgument(f"{name}: {text!r} is no {kind}") from None


def call(
    function: Callable[..., object],
    convert: Callable[[Sequence[str]], list[object]],
    texts: Sequence[str],
) -> dict[str, object]:
    """Call the function once; return its exit code and, if JSON can hold it, its value."""
    try:
        value = function(*convert(texts))
    except BadArgument as error:
        sys.stderr.write(f"{error}\n")
        return {"code": _USAGE}
    except SystemExit as end:
        return {"code": _code_of(end)}
    except BaseException:  # noqa: BLE001 - whatever it raises is its own failure
        traceback.print_exc()
        return {"code": 1}
    return {"code": 0, "value": _plain(value)}


def _code_of(end: SystemExit) -> int:
    if end.code is None or isinstance(end.code, int):
        return (end.code or 0) & 255
    sys.stderr.write(f"{end.code}\n")
    return 1


def _plain(value: object) -> object:
    with contextlib.suppress(TypeError, ValueError, RecursionError):
        if len(json.dumps(value, allow_nan=False)) <= _MOST:
            return value
    with contextlib.suppress(Exception):
        return repr(value)[:_MOST]
    return None


def once(name: str, texts: Sequence[str]) -> int:
    """Make one call, as a program that runs it alone; return its exit code."""
    sys.path.insert(0, str(Path.cwd()))
    try:
        function = load(name)
    except BaseException:  # noqa: BLE001 - an import may raise anything, even an exit
        traceback.print_exc()
        return 1
    code = call(function, converters(function), texts)["code"]
    return code if isinstance(code, int) else 1


def main() -> None:
    """Answer calls until there are no more."""
    # Whoever is called may write on what it likes, but not among the answers.
    os.set_inheritable(_CALLS, False)
    os.set_inheritable(_ANSWERS, False)
    sys.path.insert(0, str(Path.cwd()))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)
    calls = os.fdopen(_CALLS, "r", encoding="utf-8", newline="\n")
    answers = os.fdopen(_ANSWERS, "w", encoding="utf-8")
    with calls, answers, contextlib.suppress(BrokenPipeError):
        function: Callable[..., object] | None = None
        convert: Callable[[Sequence[str]], list[object]] = _as_they_are
        for line in calls:
            answer: dict[str, object] = {"code": 1}
            try:
                if function is None:
                    function = load(sys.argv[1])
                    convert = converters(function)
            except BaseException:  # noqa: BLE001 - an import may raise anything, even an exit
                traceback.print_exc()
            else:
                answer = call(function, convert, json.loads(line))
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(Exception):
                    stream.flush()
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


if __name__ == "__main__":
    if sys.argv[1] == "--once":
        sys.exit(once(sys.argv[2], sys.argv[3:]))
    main()
