"""Messages of the runner link: MessagePack in binary WebSocket frames, one message each.

The runner dials in and says `Hello`; the host answers `Welcome` or `Refuse`. The runner then
tells every task it knows (`Known`, ended by `KnownEnd`), and only when the host has compared
them with its own does it send `Launch`. All messages about a task carry its id and may be
repeated without harm.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from hakuriver.model.nodes import Metrics, NodeInfo
from hakuriver.model.tasks import Exit, Moment, Placement, TaskSpec

PROTOCOL = 1
#: A control frame is at most this long; a longer `Launch` is fetched by HTTP (`LaunchWaiting`).
MAX_FRAME = 1 << 20
#: A log chunk carries at most this many bytes of a log.
MAX_CHUNK = 64 << 10
#: So many bytes of a log may be on their way before the host grants more.
LOG_WINDOW = 1 << 20

Stream = Literal["stdout", "stderr"]


class Message(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """What all messages share: a tag with the class's name."""


class Hello(Message, frozen=True, kw_only=True):
    """First word of a runner: who it is, and what its machine has.

    `node_uid` names the runner's state directory for ever, `session` this one process, `boot_id`
    the machine's present boot; `cluster_id` is the cluster it last belonged to, None for none.
    """

    protocol: int
    node_uid: str
    boot_id: str
    session: str
    cluster_id: str | None
    info: NodeInfo


class Known(Message, frozen=True, kw_only=True):
    """A task the runner has journaled and the host has not acknowledged.

    `started_at` is None when it never started; `exit` is None while it runs. The paths are those
    of its logs.
    """

    task_id: int
    spec: TaskSpec
    placement: Placement
    started_at: Moment | None = None
    exit: Exit | None = None
    stdout_path: str = ""
    stderr_path: str = ""


class KnownEnd(Message, frozen=True, kw_only=True):
    """The runner has told all it knows."""


class Heartbeat(Message, frozen=True, kw_only=True):
    """The runner is alive; how busy its machine is."""

    metrics: Metrics


class Started(Message, frozen=True, kw_only=True):
    """The task's process runs. `started_at` is in seconds since the Unix epoch."""

    task_id: int
    started_at: Moment
    stdout_path: str
    stderr_path: str


class Finished(Message, frozen=True, kw_only=True):
    """The task ended; repeated at each exchange until the host acknowledges it."""

    task_id: int
    exit: Exit


class LogOpened(Message, frozen=True, kw_only=True):
    """Answer to `LogOpen`: the file's size now and the offset where the chunks will begin.

    A log that does not exist (yet) has size 0; `error` says why it cannot be read.
    """

    subscription: int
    size: int
    offset: int
    error: str | None = None


class LogChunk(Message, frozen=True, kw_only=True):
    """Bytes of a log, in order and without gaps; `offset` is that of the first byte."""

    subscription: int
    offset: int
    data: bytes


class LogReset(Message, frozen=True, kw_only=True):
    """The file shrank: what follows starts again at offset 0."""

    subscription: int


class LogEnd(Message, frozen=True, kw_only=True):
    """All that was asked for has been sent. For a follow: the task ended and its log is whole."""

    subscription: int
    size: int


class Welcome(Message, frozen=True, kw_only=True):
    """The host takes the runner in; `heartbeat_interval` is in seconds."""

    cluster_id: str
    heartbeat_interval: float
    version: str


class Refuse(Message, frozen=True, kw_only=True):
    """The host does not take the runner in; `final` means that trying again cannot help."""

    reason: str
    final: bool = False


class Launch(Message, frozen=True, kw_only=True):
    """Start this task, once: a repeated id is recognised and answered from the journal."""

    task_id: int
    spec: TaskSpec
    placement: Placement


class LaunchWaiting(Message, frozen=True, kw_only=True):
    """A `Launch` too large for a frame waits at ``GET /api/runner/launch/<id>``."""

    task_id: int


class Kill(Message, frozen=True, kw_only=True):
    """End the task's whole process tree: SIGTERM, grace, SIGKILL; or never start it."""

    task_id: int


class Acknowledge(Message, frozen=True, kw_only=True):
    """The task's end is in the host's store; the runner may forget it."""

    task_id: int


class LogOpen(Message, frozen=True, kw_only=True):
    """Read a task's log from `offset`; with `tail`, only its last so many lines.

    `limit` bounds the bytes sent (None: to the end). `follow` goes on until the task has ended.
    """

    subscription: int
    task_id: int
    stream: Stream
    offset: int = 0
    tail: int | None = None
    limit: int | None = None
    follow: bool = False


class LogCredit(Message, frozen=True, kw_only=True):
    """So many more bytes of the log may be sent."""

    subscription: int
    size: int


class LogClose(Message, frozen=True, kw_only=True):
    """Nobody reads this log any more."""

    subscription: int


FromRunner = (
    Hello
    | Known
    | KnownEnd
    | Heartbeat
    | Started
    | Finished
    | LogOpened
    | LogChunk
    | LogReset
    | LogEnd
)
FromHost = (
    Welcome | Refuse | Launch | LaunchWaiting | Kill | Acknowledge | LogOpen | LogCredit | LogClose
)

_encoder = msgspec.msgpack.Encoder()
_from_runner: msgspec.msgpack.Decoder[FromRunner] = msgspec.msgpack.Decoder(FromRunner)
_from_host: msgspec.msgpack.Decoder[FromHost] = msgspec.msgpack.Decoder(FromHost)


def encode(message: Message) -> bytes:
    """Return the frame for `message`."""
    return _encoder.encode(message)


def decode_from_runner(frame: bytes) -> FromRunner:
    """Read a frame that a runner sent; raise `msgspec.DecodeError` on anything else."""
    try:
        return _from_runner.decode(frame)
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(str(error)) from None


def decode_from_host(frame: bytes) -> FromHost:
    """Read a frame that the host sent; raise `msgspec.DecodeError` on anything else."""
    try:
        return _from_host.decode(frame)
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(str(error)) from None
