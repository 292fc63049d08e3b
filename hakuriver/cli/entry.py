"""What every command's entry point is made of: the end for want of a reader.

``hakuriver.client --list-tasks | head -1`` is no error: ``head`` has seen enough and gone. Python
tells such an end as an exception, at a print or as late as the last flush at the exit.
"""

from __future__ import annotations

import os
import sys
from functools import wraps
from typing import TYPE_CHECKING, Protocol, TextIO, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: The exit code of a command whose reader has gone: as a shell says it of SIGPIPE.
READER_GONE = 128 + 13


class Main(Protocol):
    """What a console script calls: arguments, by default those of the process, to exit code."""

    def __call__(self, argv: Sequence[str] | None = None) -> int:
        """Run the command."""
        ...


def entry(main: Callable[[Sequence[str] | None], int]) -> Main:
    """Return `main` such that it ends with `READER_GONE`, without a word, when nobody reads on.

    This holds for stdout and stderr, and for the help and the mistakes that argparse tells.
    """

    @wraps(main)
    def until_nobody_reads(argv: Sequence[str] | None = None) -> int:
        try:
            try:
                code = main(argv)
            except SystemExit:  # argparse has told its help, or a mistake
                _flush()
                raise
            _flush()
        except BrokenPipeError:
            _drop_the_rest()
            return READER_GONE
        return code

    return until_nobody_reads


def _flush() -> None:
    for stream in _streams():
        stream.flush()


def _streams() -> list[TextIO]:
    """Return stdout and stderr; one that was closed when Python started is None."""
    streams = cast("tuple[TextIO | None, ...]", (sys.stdout, sys.stderr))
    return [stream for stream in streams if stream is not None]


def _drop_the_rest() -> None:
    """Let what is left in the buffers go nowhere: the exit would try, and complain, once more."""
    for stream in _streams():
        try:
            stream.flush()
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
