"""From what a caller writes in Python to a checked `SubmitRequest`."""

from __future__ import annotations

import os
import shlex
import uuid
from base64 import b64encode
from typing import TYPE_CHECKING, TypedDict, Unpack

import msgspec

from hakuriver.errors import InvalidRequest
from hakuriver.model.quantities import parse_duration, parse_memory
from hakuriver.model.submission import RerunRequest, SubmitRequest, invalid
from hakuriver.model.targets import Target

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    #: One word of a command line.
    Word = str | os.PathLike[str]


class RunOptions(TypedDict, total=False):
    """How tasks run, whatever they run: the keyword options of ``run`` and ``run_script``.

    ``target`` is ``node`` or ``node:numa``; with none the scheduler picks a node. ``cores``
    (default 1; 0: no limit and no accounting), ``memory`` (bytes, or like ``"8G"``; default no
    limit) and ``time_limit`` (seconds, or like ``"2h"``) hold for each task. ``env`` adds
    variables, ``workdir`` is an absolute path on the node, ``name`` a word to find the task by;
    ``private_network`` and ``private_pid`` isolate it. With ``queue`` off a target that cannot
    start its task at once is refused. ``idempotency_key`` (default: a fresh one) makes sure that
    one submission, sent twice, creates its tasks once. ``batch_id`` names a batch of yours that is
    there already: the tasks join it, to be listed and ended with it.
    """

    target: str | Target | None
    cores: int
    memory: int | str | None
    time_limit: float | str | None
    env: Mapping[str, str] | None
    workdir: Word | None
    name: str
    private_network: bool
    private_pid: bool
    queue: bool
    idempotency_key: str | None
    batch_id: str | None


def command_request(
    command: Word | Sequence[Word],
    *,
    targets: Iterable[str | Target] | None = None,
    **options: Unpack[RunOptions],
) -> SubmitRequest:
    """Return a checked request to run a program with its arguments.

    Raises:
        InvalidRequest: a value that cannot be accepted, by its field.
    """
    if isinstance(command, str) and len(command.split()) > 1:
        raise InvalidRequest(
            "command", "write a program and its arguments as a list, like ['echo', 'hello']"
        )
    words = [command] if isinstance(command, str | os.PathLike) else list(command)
    if not words:
        raise InvalidRequest("command", "is empty")
    program, *arguments = [_word("command", word) for word in words]
    return _checked(SubmitRequest(command=program, arguments=arguments), targets, **options)


def script_request(
    script: str | bytes,
    arguments: Sequence[Word] = (),
    *,
    interpreter: str | Sequence[Word] | None = None,
    targets: Iterable[str | Target] | None = None,
    **options: Unpack[RunOptions],
) -> SubmitRequest:
    """Return a checked request to run the text of a script.

    Raises:
        InvalidRequest: a value that cannot be accepted, by its field.
    """
    request = SubmitRequest(arguments=[_word("arguments", word) for word in arguments])
    if isinstance(script, bytes):
        request.script_base64 = b64encode(script).decode("ascii")
    else:
        request.script = script
    if isinstance(interpreter, str):
        request.interpreter = shlex.split(interpreter)
    elif interpreter is not None:
        request.interpreter = [_word("interpreter", word) for word in interpreter]
    return _checked(request, targets, **options)


def _checked(
    request: SubmitRequest,
    targets: Iterable[str | Target] | None,
    **options: Unpack[RunOptions],
) -> SubmitRequest:
    known = RunOptions.__annotations__
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise TypeError(f"there is no option {unknown[0]!r}, but: targets, {', '.join(known)}")
    memory, limit = options.get("memory"), options.get("time_limit")
    workdir = options.get("workdir")
    request.targets = _targets(options.get("target"), targets)
    request.required_cores = options.get("cores", 1)
    request.required_memory_bytes = parse_memory(memory) if isinstance(memory, str) else memory
    request.time_limit_seconds = parse_duration(limit) if isinstance(limit, str) else limit
    request.env_vars = dict(options.get("env") or {})
    request.working_directory = None if workdir is None else os.fspath(workdir)
    request.name = options.get("name", "")
    request.use_private_network = options.get("private_network", False)
    request.use_private_pid = options.get("private_pid", False)
    request.queue = options.get("queue", True)
    request.idempotency_key = options.get("idempotency_key")
    request.batch_id = options.get("batch_id")
    return check(request)


class RerunOptions(TypedDict, total=False):
    """What a repetition may change: the keyword options of ``rerun``.

    ``env`` gives the values of the task's variables again, which the host has erased. ``queue``
    and ``idempotency_key`` are as in `RunOptions`.
    """

    env: Mapping[str, str] | None
    queue: bool
    idempotency_key: str | None


def rerun_request(**options: Unpack[RerunOptions]) -> RerunRequest:
    """Return a checked request to run an ended task again.

    Raises:
        InvalidRequest: a value that cannot be accepted, by its field.
    """
    checked = ready(
        SubmitRequest(
            command="-",
            env_vars=dict(options.get("env") or {}),
            queue=options.get("queue", True),
            idempotency_key=options.get("idempotency_key"),
        )
    )
    return RerunRequest(
        env_vars=checked.env_vars or None,
        queue=checked.queue,
        idempotency_key=checked.idempotency_key,
    )


def ready(request: SubmitRequest) -> SubmitRequest:
    """Return a checked copy of `request` that may be sent twice: it bears a key of its own."""
    request = check(request)
    if request.idempotency_key is None:
        request.idempotency_key = uuid.uuid4().hex
    return request


def check(request: SubmitRequest) -> SubmitRequest:
    """Return a copy of `request` if the host's own rules accept it: mistakes are told here."""
    try:
        # Attributes are not checked when they are set, only when they are read from outside.
        checked = msgspec.convert(msgspec.to_builtins(request), SubmitRequest)
    except msgspec.ValidationError as error:
        raise invalid(error) from None
    checked.to_spec()
    return checked


def _targets(
    target: str | Target | None, targets: Iterable[str | Target] | None
) -> list[str] | None:
    if target is not None and targets is not None:
        raise InvalidRequest("targets", "give target or targets, not both")
    if targets is None:
        return None if target is None else [_target(target)]
    if isinstance(targets, str):
        raise InvalidRequest("targets", "is a list; for one task give target")
    names = [_target(each) for each in targets]
    if not names:
        raise InvalidRequest("targets", "is empty")
    return names


def _target(target: str | Target) -> str:
    return str(target if isinstance(target, Target) else Target.parse(target))


def _word(field: str, word: Word) -> str:
    try:
        text: object = os.fspath(word)
    except TypeError:
        text = None
    if not isinstance(text, str):
        raise InvalidRequest(field, f"{word!r} is no text: write str({word!r})")
    return text
