"""A submission: its schema with every limit, and the checks that no schema can state.

Clients check with the same code before they send, so that a mistake is told where it was made.
"""

from __future__ import annotations

import re
from base64 import b64decode
from binascii import Error as Base64Error
from typing import Annotated, Literal, Self, TypeVar

import msgspec
from msgspec import Meta

from hakuriver.errors import InvalidRequest, NotFound
from hakuriver.model.ids import IdText, parse_id
from hakuriver.model.quantities import MAX_CORES, MAX_DURATION, MAX_MEMORY
from hakuriver.model.tasks import TaskSpec

MAX_REQUEST = 16 << 20
MAX_SCRIPT = 8 << 20
# The kernel's MAX_ARG_STRLEN is 32 pages with the closing NUL.
MAX_ARGUMENT = (128 << 10) - 1
MAX_TOTAL = 1 << 20
#: So many arguments and variables, even empty ones: each costs the kernel a pointer.
MAX_ARGUMENTS = 1 << 16
MAX_TARGETS = 1000
# A node's name, a colon and the number of a NUMA node.
MAX_TARGET = 258
MAX_PATH = 4095
MAX_KEY = 200
MAX_MANY = 1000
#: So many tasks may the submissions of one request make together.
MAX_TOGETHER = 10_000
MAX_LOGS = 200
# Longer than any id: what cannot be one is told as such.
MAX_ID = 100

_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z", re.ASCII)
_AT = re.compile(r"(?P<reason>.*) - at `(?P<path>[^`]*)`\Z", re.DOTALL)
#: What a schema says of a field, in the words that mend it.
_WORDS = {
    ("targets", "Expected `array` of length >= 1"): (
        "is empty (leave it out to let the scheduler pick)"
    ),
    ("working_directory", "Expected `str` matching regex '^/'"): "must be an absolute path",
    ("command", "Expected `str` of length >= 1"): "is empty",
    ("interpreter", "Expected `array` of length >= 1"): "is empty",
}

T = TypeVar("T")
_Name = Annotated[str, Meta(max_length=200)]
# What a schema counts are characters; the bytes are counted by hand.
_IN_WORDS = (
    f"Without NUL; at most {MAX_ARGUMENT} bytes of UTF-8. All arguments and variables together "
    f"have at most {MAX_TOTAL} bytes."
)
_Argument = Annotated[str, Meta(max_length=MAX_ARGUMENT, description=_IN_WORDS)]
_Interpreter = Annotated[list[_Argument], Meta(min_length=1, max_length=MAX_ARGUMENTS)]
# Checked by hand: msgspec does not say which variable of an object it means.
_Value = Annotated[str, Meta(extra_json_schema={"maxLength": MAX_ARGUMENT}, description=_IN_WORDS)]
_VariableName = Annotated[
    str,
    Meta(
        extra_json_schema={"pattern": "^[A-Za-z_][A-Za-z0-9_]*$"},
        description="Letters, digits and _, no digit first.",
    ),
]
_Environment = Annotated[dict[_VariableName, _Value], Meta(max_length=MAX_ARGUMENTS)]
_Target = Annotated[
    str, Meta(max_length=MAX_TARGET, description="A node, or one of its NUMA nodes: `node:0`.")
]
_Directory = Annotated[
    str, Meta(pattern="^/", max_length=MAX_PATH, description="An absolute path without NUL.")
]
_Key = Annotated[str, Meta(min_length=1, max_length=MAX_KEY, description="Without NUL.")]
_Script = Annotated[
    str, Meta(min_length=1, max_length=MAX_SCRIPT, description=f"At most {MAX_SCRIPT} bytes.")
]
_ScriptBase64 = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=-(-MAX_SCRIPT // 3) * 4,
        extra_json_schema={"contentEncoding": "base64"},
    ),
]


class SubmitRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The body of ``POST /submit``: exactly one of `command`, `script` and `script_base64`.

    Memory is in bytes, time in seconds. Without `targets` the scheduler picks a node. Without
    `interpreter` a script runs by its ``#!`` line or, if it has none, with the node's Python.
    With `queue` off a target that cannot start its task now is refused. The same
    `idempotency_key` of the same owner again is answered as before, and creates nothing. With
    `batch_id` its tasks join a batch of the same owner that is there already.
    """

    command: Annotated[_Argument, Meta(min_length=1)] | None = None
    arguments: Annotated[list[_Argument], Meta(max_length=MAX_ARGUMENTS)] = []
    env_vars: _Environment = {}
    required_cores: Annotated[int, Meta(ge=0, le=MAX_CORES)] = 1
    required_memory_bytes: Annotated[int, Meta(ge=1, le=MAX_MEMORY)] | None = None
    use_private_network: bool = False
    use_private_pid: bool = False
    targets: Annotated[list[_Target], Meta(min_length=1, max_length=MAX_TARGETS)] | None = None
    script: _Script | None = None
    script_base64: _ScriptBase64 | None = None
    interpreter: _Interpreter | None = None
    working_directory: _Directory | None = None
    time_limit_seconds: Annotated[float, Meta(gt=0, le=MAX_DURATION)] | None = None
    name: _Name = ""
    queue: bool = True
    idempotency_key: _Key | None = None
    batch_id: IdText | None = None

    @classmethod
    def from_json(cls, body: bytes) -> Self:
        """Decode and check a request's body; raise `InvalidRequest` naming the field."""
        return decode_body(body, cls)

    def to_spec(self) -> TaskSpec:
        """Check all fields and return what a runner needs of them; raise `InvalidRequest`."""
        script = self._script()
        given = [self.command is not None, script is not None]
        if sum(given) != 1:
            raise InvalidRequest("command", "give exactly one of command, script, script_base64")
        _check_text("command", self.command or "")
        if self.command == "":
            raise InvalidRequest("command", "is empty")
        if script is None and self.interpreter is not None:
            raise InvalidRequest("interpreter", "goes with a script only")
        self._check_lists()
        if self.working_directory is not None:
            _check_text("working_directory", self.working_directory)
            if not self.working_directory.startswith("/"):
                raise InvalidRequest("working_directory", "must be an absolute path")
        _check_text("name", self.name)
        _check_text("idempotency_key", self.idempotency_key or "")
        if self.batch_id is not None:
            _check_id("batch_id", self.batch_id)
        return TaskSpec(
            command=self.command or "",
            arguments=tuple(self.arguments),
            env_vars=self.env_vars,
            script=script,
            interpreter=tuple(self.interpreter or ()),
            required_cores=self.required_cores,
            required_memory_bytes=self.required_memory_bytes,
            time_limit_seconds=self.time_limit_seconds,
            working_directory=self.working_directory,
            use_private_network=self.use_private_network,
            use_private_pid=self.use_private_pid,
            name=self.name,
        )

    def _script(self) -> bytes | None:
        if self.script is not None and self.script_base64 is not None:
            raise InvalidRequest("script", "give script or script_base64, not both")
        if self.script is not None:
            script = _encoded("script", self.script)
        elif self.script_base64 is not None:
            try:
                script = b64decode(self.script_base64, validate=True)
            except (Base64Error, ValueError):
                raise InvalidRequest("script_base64", "is not Base64") from None
        else:
            return None
        if not script:
            raise InvalidRequest("script", "is empty")
        if len(script) > MAX_SCRIPT:
            raise InvalidRequest("script", f"is longer than {MAX_SCRIPT} bytes")
        return script

    def _check_lists(self) -> None:
        total = len((self.command or "").encode())
        for field, values in (("arguments", self.arguments), ("interpreter", self.interpreter)):
            for index, value in enumerate(values or ()):
                total += _check_text(f"{field}[{index}]", value)
        if self.interpreter is not None and not (self.interpreter and self.interpreter[0]):
            raise InvalidRequest("interpreter", "is empty")
        for name, value in self.env_vars.items():
            if not _ENV_NAME.match(name):
                raise InvalidRequest(
                    "env_vars",
                    f"{name[:80]!r} is no variable name (letters, digits and _, no digit first)",
                )
            # To the kernel both are one string with an = between them.
            total += _check_text(f"env_vars.{name}", f"{name}={value}")
        if total > MAX_TOTAL:
            raise InvalidRequest(
                "arguments", f"arguments and environment exceed {MAX_TOTAL} bytes together"
            )


class SubmitManyRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of ``POST /submit-many``: each is answered for itself.

    They are raw JSON here, so that a mistake in one refuses that one alone.
    """

    submissions: Annotated[
        list[
            Annotated[
                msgspec.Raw,
                Meta(extra_json_schema={"$ref": "#/components/schemas/SubmitRequest"}),
            ]
        ],
        Meta(
            min_length=1,
            max_length=MAX_MANY,
            description=f"Together they make at most {MAX_TOGETHER} tasks.",
        ),
    ]


class RerunRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of ``POST /rerun/{id}``, which may be empty.

    `env_vars` gives the values of the variables again, which the host has erased.
    """

    env_vars: _Environment | None = None
    queue: bool = True
    idempotency_key: _Key | None = None


class LogWish(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A log to follow from the byte `offset`."""

    id: Annotated[str, Meta(max_length=MAX_ID, description="The id of a task.")]
    stream: Literal["stdout", "stderr"] = "stdout"
    offset: Annotated[int, Meta(ge=0, le=1 << 62)] = 0


class StreamRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of ``POST /stream``: events after a revision (None: from now on), and logs."""

    after: Annotated[int, Meta(ge=0, le=1 << 62)] | None = None
    logs: Annotated[list[LogWish], Meta(max_length=MAX_LOGS)] = []


def decode_body(body: bytes, kind: type[T]) -> T:
    """Decode and check a request's body; raise `InvalidRequest` naming the field."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise invalid(error) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest("body", f"is not valid JSON: {error}") from None


def _check_id(field: str, text: str) -> None:
    try:
        parse_id(text)
    except NotFound:
        raise InvalidRequest(field, f"{text[:40]!r} is no id (a decimal number)") from None


def _encoded(field: str, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise InvalidRequest(field, "is not valid Unicode (a lone surrogate)") from None


def _check_text(field: str, text: str) -> int:
    """Return the size of `text` in bytes if the kernel takes it as one argument."""
    size = len(_encoded(field, text))
    if "\0" in text:
        raise InvalidRequest(field, "holds a NUL byte")
    if size > MAX_ARGUMENT:
        raise InvalidRequest(field, f"is longer than {MAX_ARGUMENT} bytes")
    return size


def invalid(error: msgspec.ValidationError) -> InvalidRequest:
    """Return `error` as ours: the path that msgspec names becomes the field."""
    match = _AT.match(str(error))
    if not match:
        return InvalidRequest("body", str(error))
    path = match["path"].removeprefix("$").removeprefix(".")
    reason = _WORDS.get((path, match["reason"]), match["reason"])
    return InvalidRequest(path or "body", reason)
