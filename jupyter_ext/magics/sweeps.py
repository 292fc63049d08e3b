"""``%hakurun`` and ``%%hakurun``: sweeps from a notebook, with a table that is kept up to date."""

from __future__ import annotations

import re
import sys
import threading
from argparse import ArgumentTypeError
from base64 import b64encode
from contextlib import suppress
from itertools import islice
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import msgspec
from IPython.core.error import UsageError

from hakuriver.cli.shared.tables import Table
from hakuriver.cli.sweep.arguments import Arguments, add_sweep
from hakuriver.cli.sweep.arguments import parse as parse_words
from hakuriver.cli.sweep.kill import DESCRIPTION, killed
from hakuriver.cli.sweep.results import add_choice, chosen
from hakuriver.cli.sweep.running import make
from hakuriver.errors import ConfigError, HakuRiverError, InvalidRequest
from hakuriver.sweep.plan import Plan
from hakuriver.sweep.results import Results
from jupyter_ext.magics.errors import CellInterrupted
from jupyter_ext.magics.parsers import MagicParser, fill, variable, words_of
from jupyter_ext.magics.place import Place
from jupyter_ext.magics.render import table
from jupyter_ext.magics.sweep_view import SweepView

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from hakuriver.sweep.records import Event
    from hakuriver.sweep.sweep import Sweep

_LINE, _CELL = "%hakurun", "%%hakurun"
# What a brace or a bracket of a span holds is the span's, not a name to fill in.
_SPAN = re.compile(r"span:\{[^{}\s]*\}?")
_INTEGER = re.compile(r"-?(0|[1-9]\d{0,17})\Z")
_NUMBER = re.compile(r"-?\d+(\.\d*)?([eE][-+]?\d+)?\Z|-?\.\d+([eE][-+]?\d+)?\Z")
#: A program's argument may have 128 KiB.
_MAX_BODY = 90 << 10
_DRY = 100
# Seconds after which what is shown is brought up to date though nothing has happened.
_LOOK = 0.25
#: What runs a cell: it gets the kinds of the parameters, the cell, and then ``name=value`` words.
_LOADER = """\
import base64, json, linecache, sys, traceback
kinds = json.loads(base64.b64decode(sys.argv[1]))
body = base64.b64decode(sys.argv[2]).decode()
linecache.cache["<cell>"] = (len(body), None, body.splitlines(True), "<cell>")
names = {"__name__": "__main__"}
makers = {"int": int, "float": float, "str": str}
for word in sys.argv[3:]:
    name, _, value = word.partition("=")
    names[name] = makers[kinds[name]](value)
try:
    exec(compile(body, "<cell>", "exec"), names)
except Exception as error:
    traceback.print_exception(error.with_traceback(error.__traceback__.tb_next))
    sys.exit(1)
"""


class SweepFailed(HakuRiverError):  # noqa: N818 - it says what became of the sweep
    """Combinations of a sweep failed; their results are kept."""


def run_line(line: str, names: Mapping[str, Any], store: Callable[[str, object], None]) -> object:
    """Run what a ``%hakurun`` line says and return its results, as a frame if there is pandas."""
    words = _split(_LINE, line, names)
    if words[:1] == ["results"]:
        return _results(words[1:])
    if words[:1] == ["kill"]:
        _kill(words[1:])
        return None
    arguments = _parse(_LINE, words)
    return _finish(make(arguments)[0], arguments, store)


def run_cell(
    line: str, body: str, names: Mapping[str, Any], store: Callable[[str, object], None]
) -> object:
    """Run a cell once for each combination of the parameters on its ``%%hakurun`` line."""
    arguments = _parse(_CELL, _split(_CELL, line, names))
    command = cell_command(body, arguments.command)
    made = make(Arguments(arguments.lead, arguments.options, command))[0]
    return _finish(made, arguments, store)


def cell_command(body: str, parameters: Iterable[str]) -> list[str]:
    """Return the program that runs `body` with the parameters as variables.

    Raises:
        InvalidRequest: a parameter is no ``name=value``, or the cell is too long.
    """
    words = list(parameters)
    kinds = {_name_of(word): kind_of(word) for word in words}
    encoded = b64encode(body.encode()).decode()
    if len(encoded) > _MAX_BODY:
        raise InvalidRequest("cell", "is too long to be given to a program: put it into a module")
    packed = b64encode(msgspec.json.encode(kinds)).decode()
    return [sys.executable, "-c", _LOADER, packed, encoded, *words]


def kind_of(word: str) -> str:
    """Return what the values of a ``name=…`` word are: all ``int``, all ``float``, else ``str``.

    The same holds for every combination. Text that would not come out the same, such as ``01``,
    is no number.
    """
    plan = Plan.of([word])
    values = [plan[index].arguments[0].partition("=")[2] for index in range(len(plan))]
    if all(map(_INTEGER.match, values)):
        return "int"
    return "float" if all(map(_is_float, values)) else "str"


def _is_float(text: str) -> bool:
    leading = re.match(r"-?0\d", text)
    return _NUMBER.match(text) is not None and leading is None


def _name_of(word: str) -> str:
    name, equals, _ = word.partition("=")
    try:
        if equals:
            return variable(name)
    except ArgumentTypeError:
        pass
    raise InvalidRequest("parameters", f"{word!r} is no NAME=VALUE, such as lr=span:[0.1,0.2]")


def _split(prog: str, line: str, names: Mapping[str, Any]) -> list[str]:
    """Return the words of a line, filled in from `names` but for the braces of spans."""
    spans = _SPAN.findall(line)
    marked = _SPAN.sub("\0", line)
    filled = fill(prog, marked, names)
    if filled.count("\0") != len(spans):
        raise UsageError(f"{prog}: what is filled in holds a NUL byte")
    rest = iter(spans)
    return words_of(prog, re.sub("\0", lambda _: next(rest), filled))


def _parse(prog: str, words: list[str]) -> Arguments:
    class Parser(MagicParser):
        def __init__(self, name: str, **options: Any) -> None:
            del name
            options["usage"] = f"%{prog.replace('%', '%%')} [options] APP ARGS…"
            super().__init__(prog, **options)

    return parse_words(words, parser_class=Parser, more=_add_magic_options)


def _add_magic_options(parser: Any) -> list[str]:
    group = parser.add_argument_group("the notebook")
    group.add_argument(
        "-o", "--out", type=variable, metavar="NAME", help="store the results in this variable"
    )
    group.add_argument(
        "--no-raise-error", action="store_true", help="a failure shows in the table alone"
    )
    return ["-o", "--out"]


def _finish(made: Sweep, arguments: Arguments, store: Callable[[str, object], None]) -> object:
    """Run a sweep, or show it with ``--dry-run``; return what the line is worth."""
    options = arguments.options
    if options.dry_run:
        return _plan(made)
    place = Place()
    view = SweepView(made, place)
    # What was submitted to a cluster goes on, but for too many failures.
    left = made.cluster is not None
    try:
        _run(made, view)
        left = False
    except KeyboardInterrupt:
        goes_on = ""
        if left:
            kill = f"{_LINE} kill {made.header.sweep_id}"
            goes_on = f"; tasks that were submitted go on, end them with {kill}"
        raise CellInterrupted(f"interrupted; {_way_back(made)}{goes_on}") from None
    finally:
        view.finish(left=left)
    results = made.results()
    value = _frame(results)
    if options.out:
        store(options.out, value)
    if results.failed and not options.no_raise_error:
        count = len(results.failed)
        first = results.failed[0]
        why = view.failure(first["run"] - 1) or first["reason"] or f"exit code {first['exit_code']}"
        raise SweepFailed(
            f"{count} of {len(made)} combinations failed, the first is run {first['run']} "
            f"({why}); {_way_back(made)}"
        )
    return None if options.out else value


def _run(made: Sweep, view: SweepView) -> None:
    """Run a sweep in a thread beside, so that what is shown goes on while nothing happens."""
    news: SimpleQueue[Event | BaseException | None] = SimpleQueue()

    def work() -> None:
        try:
            for event in made.events():
                news.put(event)
            news.put(None)
        except BaseException as error:  # noqa: BLE001 - it is raised below
            news.put(error)

    thread = threading.Thread(target=work, name="sweep", daemon=True)
    thread.start()
    try:
        _take_all(news, view)
    except KeyboardInterrupt:
        made.cancel()
        with suppress(HakuRiverError):
            _take_all(news, view)
        raise
    finally:
        thread.join()


def _take_all(news: SimpleQueue[Event | BaseException | None], view: SweepView) -> None:
    while True:
        try:
            one = news.get(timeout=_LOOK)
        except Empty:
            view.refresh()
            continue
        if one is None:
            return
        if isinstance(one, BaseException):
            raise one
        view.take(one)


def _way_back(made: Sweep) -> str:
    left = len(made) - made.done
    return f"{left} are to be run: %hakurun --resume {made.header.sweep_id}"


def _plan(made: Sweep) -> object:
    rows = [
        (str(made[index].index + 1), *made[index].values) for index in range(min(len(made), _DRY))
    ]
    return table(Table(("run", *made.plan.names), tuple(rows), frozenset({0})))


def _results(words: list[str]) -> object:
    parser = MagicParser(prog=f"{_LINE} results", description="Return the results of a sweep.")
    add_choice(parser)
    parser.add_argument("--limit", type=int, default=100_000, metavar="N", help="how many at most")
    options = parser.parse_args(words)
    records, _ = chosen(options)
    return _frame(Results(list(islice(records, options.limit))))


def _kill(words: list[str]) -> None:
    parser = MagicParser(prog=f"{_LINE} kill", description=DESCRIPTION)
    add_sweep(parser)
    sys.stdout.write(f"{killed(parser.parse_args(words).sweep)}\n")


def _frame(results: Results) -> object:
    try:
        return results.frame()
    except ConfigError:  # without pandas the records do
        return results
