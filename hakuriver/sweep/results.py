"""The results of a sweep as records: one for each combination that has ended."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, overload

from hakuriver.errors import ConfigError, InvalidRequest
from hakuriver.sweep.journal import read_ends, read_header
from hakuriver.sweep.plan import Plan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from hakuriver.sweep.journal import Header
    from hakuriver.sweep.records import Ended

#: A result of a combination: its number from 1, its parameters by name, and how it ended.
Record = dict[str, Any]


class Results(Sequence[Record]):
    """The records of a sweep, in the order of the combinations; ready for ``pandas.DataFrame``."""

    def __init__(self, records: Sequence[Record]) -> None:
        self._records = list(records)

    def __repr__(self) -> str:
        return f"<Results of {len(self)} combinations, {len(self.failed)} failed>"

    def __len__(self) -> int:
        return len(self._records)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        return self._records[index]

    @property
    def failed(self) -> list[Record]:
        """Those that did not exit with 0."""
        return [record for record in self._records if record["exit_code"] != 0]

    def frame(self) -> Any:
        """Return the records as a ``pandas.DataFrame``; raise `ConfigError` if that is missing."""
        try:
            # It is not among what we need, and neither are its types.
            pandas: Any = import_module("pandas")
        except ImportError:
            raise ConfigError("a frame needs pandas: pip install pandas") from None
        return pandas.DataFrame(self._records)


def read_records(path: Path, *, extract: str | None = None) -> Iterator[Record]:
    """Give the records of a journal one by one.

    With `extract`, ``extracted`` is what the pattern's first group, or the whole pattern, matches
    last in the end of the output that the journal keeps (1,000 characters).

    Raises:
        InvalidRequest: the pattern is none.
        JournalError: the file is no journal.
    """
    pattern = compile_pattern(extract)
    header = read_header(path)
    values = parameters(header)
    for end in read_ends(path):
        yield record_of(header.names, values(end.index), end, pattern)


def compile_pattern(text: str | None) -> re.Pattern[str] | None:
    """Return a regular expression that may span lines; raise `InvalidRequest` if it is none."""
    if text is None:
        return None
    try:
        return re.compile(text, re.MULTILINE)
    except re.error as error:
        raise InvalidRequest("--extract", f"{text!r} is no regular expression: {error}") from None


def parameters(header: Header) -> Callable[[int], tuple[str, ...]]:
    """Return what gives the values of a combination by its number.

    A span over a file that has changed since cannot be told any more: its values are empty.
    """
    try:
        plan = Plan.of(header.words[1:], side_by_side=header.side_by_side)
    except (ValueError, OSError):
        plan = None
    if plan is None or plan.digest != header.digest:
        return lambda _index: ("",) * len(header.names)
    return lambda index: plan[index].values


def record_of(
    names: Sequence[str],
    values: Sequence[str],
    end: Ended,
    pattern: re.Pattern[str] | None = None,
) -> Record:
    """Return the record of one combination."""
    record: Record = {"run": end.index + 1, **dict(zip(names, values, strict=True))}
    record |= {"exit_code": end.exit_code, "seconds": end.seconds, "attempts": end.attempt}
    if pattern is not None:
        record["extracted"] = extracted(pattern, end.tail)
    record |= {"last_line": end.last_line, "reason": end.reason, "value": end.value}
    return record | {"task_id": end.task_id, "target": end.target}


def extracted(pattern: re.Pattern[str], text: str) -> str | None:
    """Return the last match in `text`: its first group if the pattern has one."""
    found = None
    for match in pattern.finditer(text):
        found = match.group(1) if pattern.groups else match.group()
    return found
