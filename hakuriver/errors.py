"""Every exception that HakuRiver raises on purpose.

Each class knows the HTTP status it becomes on the host (``http_status``) and the exit code it
becomes at the command line (``exit_code``). The closest builtin is the second parent::

    HakuRiverError
    ├── ConfigError (ValueError)            a file or variable that cannot be used
    ├── InvalidRequest (ValueError)         a field with a bad value: 422, exit 2
    ├── Unauthorized (PermissionError)      missing or wrong token: 401
    ├── NotFound (LookupError)              no such task, node or path: 404
    ├── Conflict                            not possible in the present state: 409
    ├── TooManyRequests                     asked more often than allowed: 429
    ├── SubmissionRefused                   targets got no task; has every reason
    ├── NodeOffline                         the node that would have to answer is away: 503
    ├── HostUnreachable (ConnectionError)   nobody answers at the host's address
    ├── HostFault                           the host answered with something unexpected
    ├── StoreError                          the database cannot be used
    ├── StartError                          a daemon of ours did not start
    └── TaskError                           how a task ended
        ├── TaskFailed                      any other exit than 0, or it could not start
        │   └── TaskOutOfMemory (MemoryError)
        ├── TaskKilled                      ended on request
        └── TaskLost                        its node fell silent; the node may still tell
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hakuriver.model.views import FailedTarget, TaskResult


class HakuRiverError(Exception):
    """The root: catch this for everything that HakuRiver raises on purpose."""

    http_status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1


class ConfigError(HakuRiverError, ValueError):
    """A configuration file or variable cannot be used; the message names it and the key."""

    exit_code = 2


class InvalidRequest(HakuRiverError, ValueError):  # noqa: N818 - it names what was given
    """A value that cannot be accepted; ``field`` says where it stood and ``reason`` why."""

    http_status = 422
    exit_code = 2

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}" if field else reason)
        self.field = field
        self.reason = reason


class Unauthorized(HakuRiverError, PermissionError):  # noqa: N818
    """The token is missing or wrong."""

    http_status = 401


class NotFound(HakuRiverError, LookupError):  # noqa: N818
    """There is no such task, node or path."""

    http_status = 404


class Conflict(HakuRiverError):  # noqa: N818
    """The request is not possible in the present state; nothing was changed."""

    http_status = 409


class TooManyRequests(HakuRiverError):  # noqa: N818
    """Somebody asks more often than he may; after ``retry_after`` seconds he may again.

    A host that does not say when it was gives 0.
    """

    http_status = 429

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class SubmissionRefused(HakuRiverError):  # noqa: N818
    """Targets got no task; ``failed_targets`` holds each of them with its reason."""

    http_status = 503

    def __init__(self, message: str, failed_targets: Sequence[FailedTarget] = ()) -> None:
        super().__init__(message)
        self.failed_targets = tuple(failed_targets)


class NodeOffline(HakuRiverError):  # noqa: N818
    """The node that would have to answer is offline; try again when it is back."""

    http_status = 503


class HostUnreachable(HakuRiverError, ConnectionError):  # noqa: N818
    """Nobody answers at the host's address."""


class HostFault(HakuRiverError):  # noqa: N818
    """The host answered with something that this client does not understand."""


class StoreError(HakuRiverError):
    """The database cannot be used; the message says why and how to mend it."""

    http_status = 503


class StartError(HakuRiverError):
    """A daemon did not start; the message holds its last words."""


class TaskError(HakuRiverError):
    """A task did not complete; ``result`` holds how it ended."""

    def __init__(self, message: str, result: TaskResult) -> None:
        super().__init__(message)
        self.result = result


class TaskFailed(TaskError):  # noqa: N818
    """The program exited with another code than 0, was ended by a signal, or could not start."""


class TaskOutOfMemory(TaskFailed, MemoryError):  # noqa: N818
    """The task went over its memory limit."""


class TaskKilled(TaskError):  # noqa: N818
    """The task was ended on request."""


class TaskLost(TaskError):  # noqa: N818
    """The task's node fell silent; its own word may still replace this one."""
