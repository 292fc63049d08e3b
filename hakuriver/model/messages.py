"""Messages of the runner link: MessagePack in binary WebSocket frames.

A frame holds one message, or an array of those that one turn of the sender's event loop brought:
small messages cost their frame more than themselves.

The runner dials in and says `Hello`; the host answers `Welcome` or `Refuse`. The runner then
tells every task it knows (`Known`, ended by `KnownEnd`), and only when the host has compared
them with its own does it send `Launch`. All messages about a task carry its id and may be
repeated without harm.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

from hakuriver.model.nodes import Metrics, NodeInfo
from hakuriver.model.tasks import Exit, Id, Moment, Origin, Placement, TaskSpec, Usage

if TYPE_CHECKING:
    from collections.abc import Callable

#: What this version speaks. It grows when the other side must know something new.
PROTOCOL = 3
#: A host serves runners that speak this, or anything up to its own; runners need a host as new.
OLDEST_PROTOCOL = 2
#: A control frame is at most this long; a longer `Launch` is fetched by HTTP (`LaunchWaiting`).
MAX_FRAME = 1 << 20
# What an array adds to its members.
_HEAD = 5
#: A log chunk carries at most this many bytes of a log.
MAX_CHUNK = 64 << 10
#: So many bytes of a log may be on their way before the host grants more.
LOG_WINDOW = 1 << 20

# A runner is little trusted: texts that could fill the host's memory or store break the link.
_Word = Annotated[str, msgspec.Meta(max_length=200)]
_Path = Annotated[str, msgspec.Meta(max_length=1 << 13)]
_Reason = Annotated[str, msgspec.Meta(max_length=1 << 16)]
_Chunk = Annotated[bytes, msgspec.Meta(max_length=MAX_CHUNK)]
_Ids = Annotated[tuple[Id, ...], msgspec.Meta(max_length=1 << 16)]
Size = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
Stream = Literal["stdout", "stderr"]


class Message(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """What all messages share: a tag with the class's name."""


class Hello(Message, frozen=True, kw_only=True):
    """First word of a runner: who it is, and what its machine has.

    `node_uid` names the runner's state directory for ever, `session` this one process, `boot_id`
    the machine's present boot; `cluster_id` is the cluster it last belonged to, None for none.
    """

    protocol: int
    node_uid: _Word
    boot_id: _Word
    session: _Word
    cluster_id: _Word | None
    info: NodeInfo


class Known(Message, frozen=True, kw_only=True):
    """A task the runner has journaled and the host has not acknowledged.

    `started_at` is None when it never started; `exit` is None while it runs. The paths are those
    of its logs, `unit` is the name of its systemd unit, None if it has none.
    """

    task_id: Id
    spec: TaskSpec
    placement: Placement
    origin: Origin = Origin()
    started_at: Moment | None = None
    exit: Exit | None = None
    stdout_path: _Path = ""
    stderr_path: _Path = ""
    unit: _Word | None = None


class KnownEnd(Message, frozen=True, kw_only=True):
    """The runner has told all it knows."""


class Heartbeat(Message, frozen=True, kw_only=True):
    """The runner is alive; how busy its machine is."""

    metrics: Metrics


class Started(Message, frozen=True, kw_only=True):
    """The task's process runs. `started_at` is in seconds since the Unix epoch; see `Known`."""

    task_id: Id
    started_at: Moment
    stdout_path: _Path
    stderr_path: _Path
    unit: _Word | None = None


class Measured(Message, frozen=True, kw_only=True):
    """What a task that runs has used so far; told now and then while that changes."""

    task_id: Id
    usage: Usage


class Finished(Message, frozen=True, kw_only=True):
    """The task ended; repeated at each exchange until the host acknowledges it."""

    task_id: Id
    exit: Exit


class Discarded(Message, frozen=True, kw_only=True):
    """Answer to `Discard`: nothing of these tasks is left on the node."""

    task_ids: _Ids


class LogOpened(Message, frozen=True, kw_only=True):
    """Answer to `LogOpen`: the file's size now and the offset where the chunks will begin.

    A log that does not exist (yet) has size 0; `error` says why it cannot be read.
    """

    subscription: int
    size: Size
    offset: Size
    error: _Reason | None = None


class LogChunk(Message, frozen=True, kw_only=True):
    """Bytes of a log, in order and without gaps; `offset` is that of the first byte."""

    subscription: int
    offset: Size
    data: _Chunk


class LogReset(Message, frozen=True, kw_only=True):
    """The file shrank: what follows starts again at offset 0."""

    subscription: int


class LogEnd(Message, frozen=True, kw_only=True):
    """All that was asked for has been sent. For a follow: the task ended and its log is whole."""

    subscription: int
    size: Size


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

    task_id: Id
    spec: TaskSpec
    placement: Placement
    origin: Origin = Origin()


class LaunchWaiting(Message, frozen=True, kw_only=True):
    """A `Launch` too large for a frame waits at ``GET /api/runner/launch/<id>``."""

    task_id: Id


class Kill(Message, frozen=True, kw_only=True):
    """End the task's whole process tree: SIGTERM, grace, SIGKILL; or never start it."""

    task_id: Id


class Acknowledge(Message, frozen=True, kw_only=True):
    """The task's end is in the host's store; the runner may forget it."""

    task_id: Id


class Discard(Message, frozen=True, kw_only=True):
    """Remove the logs, the scripts and the own folders of these tasks, which ended long ago."""

    task_ids: tuple[Id, ...]


class LogOpen(Message, frozen=True, kw_only=True):
    """Read a task's log from `offset`; with `tail`, only its last so many lines.

    `limit` bounds the bytes sent (None: to the end). `follow` goes on until the task has ended.
    """

    subscription: int
    task_id: Id
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
    | Measured
    | Finished
    | Discarded
    | LogOpened
    | LogChunk
    | LogReset
    | LogEnd
)
FromHost = (
    Welcome
    | Refuse
    | Launch
    | LaunchWaiting
    | Kill
    | Acknowledge
    | Discard
    | LogOpen
    | LogCredit
    | LogClose
)


class _Version(msgspec.Struct, frozen=True):
    version: str = "of an unknown version"


class Greeting(msgspec.Struct, frozen=True, kw_only=True):
    """What every `Hello` holds, of whatever protocol: enough to say why it is refused."""

    type: Literal["Hello"]
    protocol: int
    info: _Version = _Version()


_encoder = msgspec.msgpack.Encoder()
_from_runner: msgspec.msgpack.Decoder[FromRunner] = msgspec.msgpack.Decoder(FromRunner)
_from_host: msgspec.msgpack.Decoder[FromHost] = msgspec.msgpack.Decoder(FromHost)


_many_from_runner = msgspec.msgpack.Decoder(list[FromRunner])
_many_from_host = msgspec.msgpack.Decoder(list[FromHost])


class Outbox:
    """Gathers the messages of one turn of an event loop into as few frames as there may be.

    Args:
        flush_soon: called when there is something to `take` that there was not before.
    """

    def __init__(self, flush_soon: Callable[[], object]) -> None:
        self._flush_soon = flush_soon
        self._encoded: list[bytes] = []

    def add(self, encoded: bytes) -> None:
        """Put a message, encoded by `encode`, behind the others."""
        self._encoded.append(encoded)
        if len(self._encoded) == 1:
            self._flush_soon()

    def take(self) -> list[bytes]:
        """Return the frames to send now, in order, and begin anew."""
        encoded, self._encoded = self._encoded, []
        frames: list[bytes] = []
        while encoded:
            count, size = 1, len(encoded[0])
            while count < len(encoded) and size + len(encoded[count]) < MAX_FRAME - _HEAD:
                size += len(encoded[count])
                count += 1
            frames.append(_frame(encoded[:count]))
            encoded = encoded[count:]
        return frames


def _frame(encoded: list[bytes]) -> bytes:
    if len(encoded) == 1:
        return encoded[0]
    # MessagePack's array of up to 2^32 members.
    return b"\xdd" + len(encoded).to_bytes(4, "big") + b"".join(encoded)


def encode(message: Message) -> bytes:
    """Return `message` as it stands in a frame."""
    return _encoder.encode(message)


def greeting_in(frame: bytes) -> Greeting | None:
    """Return what can be read of a `Hello` that this version cannot read as a whole."""
    try:
        return msgspec.msgpack.decode(frame, type=Greeting)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def messages_from_runner(frame: bytes) -> list[FromRunner]:
    """Read all messages of a frame that a runner sent; raise `msgspec.DecodeError`."""
    if frame[:1] != b"\xdd":
        return [decode_from_runner(frame)]
    try:
        return _many_from_runner.decode(frame)
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(str(error)) from None


def messages_from_host(frame: bytes) -> list[FromHost]:
    """Read all messages of a frame that the host sent; raise `msgspec.DecodeError`."""
    if frame[:1] != b"\xdd":
        return [decode_from_host(frame)]
    try:
        return _many_from_host.decode(frame)
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(str(error)) from None


def decode_from_runner(frame: bytes) -> FromRunner:
    """Read one message that a runner sent; raise `msgspec.DecodeError` on anything else."""
    try:
        return _from_runner.decode(frame)
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(str(error)) from None


def decode_from_host(frame: bytes) -> FromHost:
    """Read one message that the host sent; raise `msgspec.DecodeError` on anything else."""
    try:
        return _from_host.decode(frame)
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(str(error)) from None
