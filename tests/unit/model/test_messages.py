from __future__ import annotations

import itertools
import typing
from contextlib import suppress
from enum import Enum
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hakuriver.model import messages
from hakuriver.model.messages import (
    FromHost,
    FromRunner,
    Kill,
    KnownEnd,
    Message,
    Outbox,
    decode_from_host,
    decode_from_runner,
    encode,
    messages_from_host,
    messages_from_runner,
)

_PLAIN: dict[Any, st.SearchStrategy[Any]] = {
    int: st.integers(-(1 << 63), (1 << 63) - 1),
    str: st.text(max_size=8),
    float: st.floats(0, 1e11),
    bool: st.booleans(),
    bytes: st.binary(max_size=8),
    type(None): st.none(),
}


def values_of(kind: Any) -> st.SearchStrategy[Any]:
    """Return values of a type that a message's field may have."""
    if kind in _PLAIN:
        return _PLAIN[kind]
    if get_origin(kind) is None:
        return st.sampled_from(kind) if issubclass(kind, Enum) else structs_of(kind)
    return composed_of(kind, get_args(kind))


def composed_of(kind: Any, arguments: tuple[Any, ...]) -> st.SearchStrategy[Any]:
    if get_origin(kind) is Annotated:
        return bounded(arguments[0], kind.__metadata__[0])
    if get_origin(kind) is Literal:
        return st.sampled_from(arguments)
    if get_origin(kind) is tuple:
        return st.lists(values_of(arguments[0]), max_size=3).map(tuple)
    if get_origin(kind) is dict:
        return st.dictionaries(values_of(arguments[0]), values_of(arguments[1]), max_size=2)
    return st.one_of(*map(values_of, arguments))


def bounded(kind: Any, meta: Any) -> st.SearchStrategy[Any]:
    """Return values that a field with limits may have."""
    if kind is str:
        if meta.pattern is None:
            return st.text(max_size=8)
        return st.from_regex(meta.pattern, fullmatch=True)
    if kind is bytes or get_origin(kind) in (tuple, dict):
        return values_of(kind)
    numbers: Any = st.integers if kind is int else st.floats
    return numbers(meta.ge, meta.le)  # type: ignore[no-any-return]


def structs_of(kind: Any) -> st.SearchStrategy[Any]:
    hints = get_type_hints(kind, include_extras=True)
    names = typing.cast("tuple[str, ...]", kind.__struct_fields__)
    fields = {name: values_of(hints[name]) for name in names}
    return st.fixed_dictionaries(fields).map(lambda chosen: kind(**chosen))


@pytest.mark.parametrize("kind", get_args(FromRunner))
@settings(max_examples=15)
@given(data=st.data())
def test_what_a_runner_says_is_understood(kind: type[Message], data: st.DataObject) -> None:
    message = data.draw(structs_of(kind))
    assert decode_from_runner(encode(message)) == message
    with pytest.raises(msgspec.DecodeError):
        decode_from_host(encode(message))


@pytest.mark.parametrize("kind", get_args(FromHost))
@settings(max_examples=15)
@given(data=st.data())
def test_what_the_host_says_is_understood(kind: type[Message], data: st.DataObject) -> None:
    message = data.draw(structs_of(kind))
    assert decode_from_host(encode(message)) == message
    with pytest.raises(msgspec.DecodeError):
        decode_from_runner(encode(message))


def test_every_message_is_sent_by_one_side() -> None:
    both = {*get_args(FromRunner), *get_args(FromHost)}
    assert both == set(Message.__subclasses__())


@given(st.binary(max_size=60))
def test_garbage_is_refused_as_such(frame: bytes) -> None:
    for decode in (decode_from_runner, decode_from_host):
        with pytest.raises(msgspec.DecodeError):
            decode(frame)


@settings(max_examples=50)
@given(st.data())
def test_a_damaged_frame_is_a_message_or_refused(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(get_args(FromRunner)))
    frame = bytearray(encode(data.draw(structs_of(kind))))
    at = data.draw(st.integers(0, len(frame) - 1))
    frame[at] = data.draw(st.integers(0, 255))
    for damaged in (bytes(frame), bytes(frame[:at])):
        with suppress(msgspec.DecodeError):
            decode_from_runner(damaged)


@pytest.mark.parametrize(
    "frame",
    [
        b"\x82\xa4type\xa6Refuse\xa6reason\xa1\xff",  # text that is no UTF-8
        b"\x81\xa4type\xa2\xff\xff",
        b"\x82\xa4type\xa7KnownEnd\xa1x" + b"\x91" * 100_000 + b"\xc0",
        b"\x82\xa4type\xa8KnownEnd\xa1x" + b"\x91" * 100_000 + b"\xc0",  # deep nesting
        b"",
        b"\xc0",
        b"[]",
    ],
    ids=["utf8", "tag", "cut", "deep", "empty", "nil", "text"],
)
def test_hostile_frames_are_refused_like_any_garbage(frame: bytes) -> None:
    for decode in (decode_from_runner, decode_from_host):
        with pytest.raises(msgspec.DecodeError):
            decode(frame)


def test_a_newer_runner_may_say_more() -> None:
    frame = msgspec.msgpack.encode({"type": "KnownEnd", "of_a_later_version": 1})
    assert decode_from_runner(frame) == KnownEnd()


def test_a_log_chunk_fits_in_a_frame() -> None:
    chunk = messages.LogChunk(subscription=1, offset=1 << 60, data=bytes(messages.MAX_CHUNK))
    assert len(encode(chunk)) < messages.MAX_FRAME


@pytest.mark.parametrize("moment", [float("nan"), float("inf"), -1.0, 1e12])
def test_a_moment_that_no_date_has_is_refused(moment: float) -> None:
    frame = msgspec.msgpack.encode(
        {
            "type": "Started",
            "task_id": 1,
            "started_at": moment,
            "stdout_path": "",
            "stderr_path": "",
        }
    )
    with pytest.raises(msgspec.DecodeError, match="started_at"):
        decode_from_runner(frame)


# -- numbers that no store could hold ------------------------------------------------------

STARTED = {
    "type": "Started",
    "task_id": 1,
    "started_at": 1.0,
    "stdout_path": "",
    "stderr_path": "",
}
EXIT = {"status": "completed", "completed_at": 1.0}
PLACE = {"batch_id": 1, "batch_index": 0, "batch_size": 1}
INFO = {"version": "0", "launcher": "process", "cpus": [0], "memory_bytes": 1}
HELLO = {
    "type": "Hello",
    "protocol": 1,
    "node_uid": "u",
    "boot_id": "b",
    "session": "s",
    "cluster_id": None,
}


@pytest.mark.parametrize(
    ("content", "where"),
    [
        ({**STARTED, "task_id": -1}, "task_id"),
        ({**STARTED, "task_id": 1 << 63}, "task_id"),
        ({"type": "Discarded", "task_ids": [1, 1 << 63]}, "task_ids"),
        ({"type": "Finished", "task_id": 1, "exit": {**EXIT, "exit_code": 1 << 40}}, "exit_code"),
        ({"type": "LogOpened", "subscription": 1, "size": -1, "offset": 0}, "size"),
        ({"type": "LogChunk", "subscription": 1, "offset": 1 << 63, "data": b""}, "offset"),
        (
            {
                "type": "Known",
                "task_id": 1,
                "spec": {"command": "c"},
                "placement": {**PLACE, "batch_id": 1 << 63},
            },
            "batch_id",
        ),
        (
            {
                "type": "Known",
                "task_id": 1,
                "spec": {"command": "c"},
                "placement": {**PLACE, "cpus": [-1]},
            },
            "cpus",
        ),
        ({**HELLO, "info": {**INFO, "cpus": [1 << 40]}}, "cpus"),
        ({**HELLO, "info": {**INFO, "memory_bytes": -1}}, "memory_bytes"),
        (
            {**HELLO, "info": {**INFO, "numa_topology": {"x": [[0], 1]}}},
            "numa_topology",
        ),
        (
            {
                **HELLO,
                "info": {**INFO, "numa_topology": {"0": {"cores": [0], "memory_bytes": 1 << 63}}},
            },
            "memory_bytes",
        ),
    ],
)
def test_a_number_out_of_bounds_is_refused(content: dict[str, Any], where: str) -> None:
    with pytest.raises(msgspec.DecodeError, match=where):
        decode_from_runner(msgspec.msgpack.encode(content))


# -- several messages in a frame -----------------------------------------------------------


class Sent:
    """An outbox and how often it has asked to be flushed."""

    def __init__(self) -> None:
        self.asked = 0
        self.outbox = Outbox(self._ask)

    def _ask(self) -> None:
        self.asked += 1

    def add(self, *sent: Message) -> None:
        for message in sent:
            self.outbox.add(encode(message))


def test_one_message_is_a_frame_of_its_own() -> None:
    sent = Sent()
    sent.add(KnownEnd())
    (frame,) = sent.outbox.take()
    assert frame == encode(KnownEnd())
    assert messages_from_runner(frame) == [KnownEnd()]


def test_what_one_turn_brings_goes_together_and_in_order() -> None:
    sent = Sent()
    kills = [Kill(task_id=number) for number in range(300)]
    sent.add(*kills)
    # To flush once is enough, however many there are.
    assert sent.asked == 1
    (frame,) = sent.outbox.take()
    assert messages_from_host(frame) == kills
    assert sent.outbox.take() == []
    sent.add(kills[0])
    assert sent.asked == 2
    assert messages_from_host(*sent.outbox.take()) == kills[:1]


@settings(max_examples=60)
@given(st.lists(st.integers(0, 120), max_size=30))
def test_no_frame_is_longer_than_its_limit_unless_a_message_is(sizes: list[int]) -> None:
    sent = Sent()
    chunks = [
        messages.LogChunk(subscription=1, offset=index, data=bytes(size))
        for index, size in enumerate(sizes)
    ]
    limit = 200
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(messages, "MAX_FRAME", limit)
        sent.add(*chunks)
        frames = sent.outbox.take()
    read = [message for frame in frames for message in messages_from_runner(frame)]
    assert read == chunks
    for one in frames:
        assert len(one) <= limit or len(messages_from_runner(one)) == 1
    # Neighbours that would fit into one frame are in one.
    for one, two in itertools.pairwise(frames):
        first = len(encode(messages_from_runner(two)[0]))
        assert len(one) + first >= limit - 10


def test_a_chunk_and_what_goes_with_it_are_within_the_limit() -> None:
    sent = Sent()
    chunk = messages.LogChunk(subscription=1, offset=0, data=bytes(messages.MAX_CHUNK))
    sent.add(*[chunk] * 40)
    frames = sent.outbox.take()
    assert max(map(len, frames)) <= messages.MAX_FRAME
    assert len(frames) == 3


@pytest.mark.parametrize(
    "frame",
    [
        b"\xdd",
        b"\xdd\x00\x00",
        b"\xdd\xff\xff\xff\xff",
        b"\xdd\xff\xff\xff\xff" + encode(KnownEnd()),
        b"\xdd\x00\x00\x00\x02" + encode(KnownEnd()),
        b"\xdd\x00\x00\x00\x01" + encode(KnownEnd()) + b"\xc0",
        b"\xdd\x00\x00\x00\x01\xc0",
        b"\xdd\x00\x00\x00\x01\x81\xa4type\xa2\xff\xff",
        b"\xdd\x00\x00\x00\x01" * 100_000,
        # Only what `Outbox` writes is a frame of several.
        b"\x91" + encode(KnownEnd()),
    ],
    ids=range(10),
)
def test_hostile_frames_of_several_are_refused(frame: bytes) -> None:
    for read in (messages_from_runner, messages_from_host):
        with pytest.raises(msgspec.DecodeError):
            read(frame)


def test_what_the_other_side_may_not_say_spoils_its_frame() -> None:
    sent = Sent()
    sent.add(KnownEnd(), Kill(task_id=1))
    (frame,) = sent.outbox.take()
    with pytest.raises(msgspec.DecodeError):
        messages_from_runner(frame)
    assert messages_from_runner(b"\xdd\x00\x00\x00\x00") == []
