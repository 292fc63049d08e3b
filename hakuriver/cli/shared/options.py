"""The options that say how tasks are to run: one definition for the client and the magics."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hakuriver.errors import InvalidRequest
from hakuriver.model.quantities import MAX_CORES, parse_duration, parse_memory
from hakuriver.model.targets import Target

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import TypeVar

    _T = TypeVar("_T")

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z", re.ASCII)
_DIGITS = re.compile(r"[0-9]{1,9}\Z", re.ASCII)
_MAX_NAME = 200


class Arguments(Protocol):
    """A parser, or a group of its options."""

    def add_argument(self, *names: str, **options: Any) -> argparse.Action:
        """Add an option."""
        ...


def add_submit_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a submission to `parser`; `SubmitOptions.from_namespace` reads them."""
    group = parser.add_argument_group("how to run")
    group.add_argument(
        "-t",
        "--target",
        action="append",
        default=[],
        type=read_target,
        metavar="NODE[:NUMA]",
        help="where to run; repeat it for a task on each (default: the scheduler picks a node)",
    )
    add_task_options(group)
    group.add_argument(
        "--time-limit", type=read_duration, metavar="D", help="end the task after D, like 90s or 2h"
    )
    group.add_argument(
        "--name", type=_name, default="", metavar="TEXT", help="a name to find it by"
    )
    group.add_argument(
        "--no-queue", action="store_true", help="refuse a task that cannot start at once"
    )


def add_task_options(group: Arguments) -> None:
    """Add what a task has whatever submits it: its room, folder, variables and isolation."""
    group.add_argument(
        "--cores", type=_cores, default=1, metavar="N", help="CPUs for each task; 0: no limit"
    )
    group.add_argument(
        "--memory", type=_memory, metavar="SIZE", help="memory limit of each task, like 512M or 4G"
    )
    group.add_argument("--workdir", type=_workdir, metavar="DIR", help="where on the node to run")
    group.add_argument(
        "--env",
        action="append",
        default=[],
        type=_variable,
        metavar="K=V",
        help="a variable for the task; K alone takes the value it has here",
    )
    group.add_argument(
        "--env-file",
        action="append",
        default=[],
        metavar="FILE",
        help="a file with KEY=VALUE lines; --env goes before it",
    )
    group.add_argument(
        "--private-network", action="store_true", help="no network but a loopback of its own"
    )
    group.add_argument("--private-pid", action="store_true", help="a process table of its own")


@dataclass(frozen=True, slots=True)
class SubmitOptions:
    """How tasks are to run. Memory is in bytes, time in seconds; `env` has secrets, so no repr."""

    targets: tuple[str, ...] = ()
    cores: int = 1
    memory: int | None = None
    time_limit: float | None = None
    workdir: str | None = None
    name: str = ""
    env: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    private_network: bool = False
    private_pid: bool = False
    queue: bool = True

    @classmethod
    def from_namespace(
        cls, namespace: argparse.Namespace, environ: Mapping[str, str]
    ) -> SubmitOptions:
        """Return the options in a parsed `namespace`; raise `InvalidRequest` as `read_env` does."""
        return cls(
            targets=tuple(namespace.target),
            cores=namespace.cores,
            memory=namespace.memory,
            time_limit=namespace.time_limit,
            workdir=namespace.workdir,
            name=namespace.name,
            env=read_env(namespace, environ),
            private_network=namespace.private_network,
            private_pid=namespace.private_pid,
            queue=not namespace.no_queue,
        )

    def as_arguments(self) -> dict[str, Any]:
        """Return the keyword arguments for a client's ``run`` and ``run_script``.

        One target gives a task, several give a batch.
        """
        arguments: dict[str, Any] = {
            "cores": self.cores,
            "memory": self.memory,
            "time_limit": self.time_limit,
            "workdir": self.workdir,
            "name": self.name,
            "env": self.env,
            "private_network": self.private_network,
            "private_pid": self.private_pid,
            "queue": self.queue,
        }
        if len(self.targets) > 1:
            arguments["targets"] = self.targets
        elif self.targets:
            arguments["target"] = self.targets[0]
        return arguments


def read_env(namespace: argparse.Namespace, environ: Mapping[str, str]) -> dict[str, str]:
    """Return what ``--env-file`` and ``--env`` say; `environ` has the values of ``--env K``.

    Raises:
        InvalidRequest: a variable is not set here, or a file cannot be used; names which.
    """
    env: dict[str, str] = {}
    for path in namespace.env_file:
        env.update(read_env_file(Path(path)))
    for name, value in namespace.env:
        if value is None and name not in environ:
            raise InvalidRequest("--env", f"{name} is not set here (write {name}=VALUE)")
        env[name] = environ[name] if value is None else value
    return env


def read_env_file(path: Path) -> dict[str, str]:
    """Return the variables in a file of ``KEY=VALUE`` lines, for which quotes are optional.

    Empty lines and those that begin with ``#`` are left out.

    Raises:
        InvalidRequest: the file cannot be read, or names the line that is none of these.
    """
    try:
        text = path.expanduser().read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is not UTF-8"
        raise InvalidRequest("--env-file", f"{path} cannot be read: {reason}") from None
    env: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        name, equals, value = stripped.removeprefix("export ").partition("=")
        if not equals or not _NAME.match(name.strip()):
            # The line may hold a secret, so it is not repeated here.
            raise InvalidRequest("--env-file", f"{path}, line {number}: is not KEY=VALUE")
        env[name.strip()] = _unquoted(value.strip(), path, number)
    return env


def _unquoted(value: str, path: Path, number: int) -> str:
    quote = value[:1]
    if quote not in {"'", '"'}:
        return value
    if len(value) < 2 or value[-1] != quote:  # noqa: PLR2004 - the two quotes
        raise InvalidRequest("--env-file", f"{path}, line {number}: the quote is not closed")
    return value[1:-1]


def _checked(parse: Callable[[str], _T], text: str) -> _T:
    """Return what `parse` makes of `text`, its refusal in argparse's own terms."""
    try:
        return parse(text)
    except InvalidRequest as error:
        raise argparse.ArgumentTypeError(error.reason) from None


def read_target(text: str) -> str:
    """Return a target as it was typed; raise argparse's own error for one that is none."""
    if not text:
        raise argparse.ArgumentTypeError("is empty; leave it out to let the scheduler pick")
    return str(_checked(Target.parse, text))


def _memory(text: str) -> int:
    return _checked(parse_memory, text)


def read_duration(text: str) -> float:
    """Return seconds; raise argparse's own error for what is no duration."""
    return _checked(parse_duration, text)


def read_count(text: str) -> int:
    """Return a whole number of at most nine digits; raise argparse's own error for another."""
    if not _DIGITS.match(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number")
    return int(text)


def _cores(text: str) -> int:
    if not _DIGITS.match(text) or int(text) > MAX_CORES:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 to {MAX_CORES}")
    return int(text)


def _workdir(text: str) -> str:
    if not text.startswith("/"):
        raise argparse.ArgumentTypeError(f"{text!r} is no absolute path (it is one on the node)")
    return text


def _name(text: str) -> str:
    if len(text) > _MAX_NAME:
        raise argparse.ArgumentTypeError(f"is longer than {_MAX_NAME} characters")
    if not is_unicode(text):
        raise argparse.ArgumentTypeError("is not valid Unicode")
    return text


def is_unicode(text: str) -> bool:
    """Tell whether `text` has no bytes in it that are no UTF-8."""
    return not any("\ud800" <= char <= "\udfff" for char in text)


def _variable(text: str) -> tuple[str, str | None]:
    name, equals, value = text.partition("=")
    if not _NAME.match(name):
        # Only the name is repeated: the value may be a secret.
        raise argparse.ArgumentTypeError(
            f"{name[:80]!r} is no variable name (letters, digits and _, no digit first)"
        )
    return name, value if equals else None
