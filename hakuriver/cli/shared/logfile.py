"""A daemon's log: to stderr and, where one is configured, to a file of its own.

Lines are handed to a thread, so that no event loop waits for a disk or a terminal.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from contextlib import contextmanager
from copy import copy
from datetime import UTC, datetime
from logging.handlers import QueueHandler, QueueListener, RotatingFileHandler
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from hakuriver.config import expand
from hakuriver.disk import make_private
from hakuriver.errors import ConfigError, HakuRiverError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Generator
    from io import TextIOWrapper

_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
#: A log file grows to so many bytes; so many older ones are kept beside it.
MAX_BYTES = 10_000_000
OLD_FILES = 3


FORMS = ("text", "json")


def add_log_format(parser: argparse.ArgumentParser) -> None:
    """Add the option of the two daemons."""
    parser.add_argument(
        "--log-format",
        choices=FORMS,
        default=FORMS[0],
        help="how the log is written: lines for people, or an object a line (default: text)",
    )


@contextmanager
def logging_to(path: str, *, key: str, form: str = "text") -> Generator[None]:
    """Let the log of this process go to stderr and to the file `path`, empty for none.

    The last lines are written when the block ends. `key` names the setting in errors, `form` is
    one of `FORMS`.

    Raises:
        ConfigError: the file cannot be written.
    """
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if path:
        handlers.append(_open(path, key))
    for handler in handlers:
        handler.setFormatter(JsonLines() if form == "json" else logging.Formatter(_FORMAT))
    lines: SimpleQueue[Any] = SimpleQueue()
    listener = QueueListener(lines, *handlers)
    root = logging.getLogger()
    entry = _Entry(lines)
    root.addHandler(entry)
    root.setLevel(logging.INFO)
    listener.start()
    failure: Exception | None = None
    try:
        yield
    except Exception as error:
        failure = error
        raise
    finally:
        root.removeHandler(entry)
        listener.stop()
        for handler in handlers:
            # On stderr it is told by whoever catches it.
            if failure is not None and isinstance(handler, _PrivateFile):
                handler.handle(_last_words(failure))
            handler.close()


class JsonLines(logging.Formatter):
    """Makes an object of each record, on one line: what programs read."""

    def format(self, record: logging.LogRecord) -> str:
        """Return time (ISO 8601, UTC), level, logger, message and, if there is one, exception."""
        moment = datetime.fromtimestamp(record.created, UTC)
        told = {
            "time": moment.isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        return json.dumps(told, ensure_ascii=False)


class _Entry(QueueHandler):
    """Hands records on with their message made, and their exception apart from it."""

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        made = copy(record)
        made.msg, made.args = record.getMessage(), None
        return made


class _PrivateFile(RotatingFileHandler):
    """A rotated log file that its owner alone may read, the old ones as well."""

    _failed = False

    def _open(self) -> TextIOWrapper:
        flags = os.O_CREAT | os.O_APPEND | os.O_WRONLY | os.O_CLOEXEC
        descriptor = os.open(self.baseFilename, flags, 0o600)
        os.fchmod(descriptor, 0o600)
        return open(descriptor, "a", encoding="utf-8", errors="backslashreplace")  # noqa: PTH123

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's own name
        """Say once on stderr that the file cannot be written: a full disk ends no daemon."""
        del record
        if not self._failed:
            self._failed = True
            print(f"the log file {self.baseFilename} cannot be written", file=sys.stderr)


def _last_words(failure: Exception) -> logging.LogRecord:
    """Return the record of what ended the daemon; a fault of ours with its traceback."""
    fault = None
    if not isinstance(failure, HakuRiverError):
        fault = (type(failure), failure, failure.__traceback__)
    return logging.LogRecord(__name__, logging.ERROR, "", 0, "Ended: %s", (failure,), fault)


def _open(path: str, key: str) -> logging.Handler:
    file = expand(path).absolute()
    try:
        make_private(file.parent)
        return _PrivateFile(file, maxBytes=MAX_BYTES, backupCount=OLD_FILES)
    except OSError as error:
        raise ConfigError(f"{key}: {file} cannot be written ({error.strerror})") from None
