"""What every command's entry point is made of: the end for want of somebody to write to.

``hakuriver.client --list-tasks | head -1`` is no error: ``head`` has seen enough and gone. Python
tells such an end as an exception, at a print or as late as the last flush at the exit, and so it
does when what was to be written finds no room.
"""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress
from functools import wraps
from typing import TYPE_CHECKING, Protocol, TextIO, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: The exit code of a command whose reader has gone: as a shell says it of SIGPIPE.
READER_GONE = 128 + 13
#: What writing to an open stream fails with where the file behind it takes no more.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


class Main(Protocol):
    """What a console script calls: arguments, by default those of the process, to exit code."""

    def __call__(self, argv: Sequence[str] | None = None) -> int:
        """Run the command."""
        ...


def entry(main: Callable[[Sequence[str] | None], int]) -> Main:
    """Return `main` such that it ends with `READER_GONE`, without a word, when nobody reads on.

    This holds for stdout and stderr, and for the help and the mistakes that argparse tells. Output
    for which there is no room is told in a line, with exit code 1; to a stream that was closed
    before the start nothing is written.
    """

    @wraps(main)
    def until_nobody_reads(argv: Sequence[str] | None = None) -> int:
        _open_all()
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
        except OSError as error:
            # One about a file has its name.
            if error.errno not in _NO_ROOM or error.filename is not None:
                raise
            _drop_the_rest()
            with suppress(OSError):
                print(f"hakuriver: the output cannot be written: {error.strerror}", file=sys.stderr)
            return 1
        return code

    return until_nobody_reads


def _open_all() -> None:
    """Let what is written to a stream that was closed when Python started go nowhere."""
    for name in ("stdout", "stderr"):
        if cast("TextIO | None", getattr(sys, name)) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()


def _drop_the_rest() -> None:
    """Let what is left in the buffers go nowhere: the exit would try, and complain, once more."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
