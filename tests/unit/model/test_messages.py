from __future__ import annotations

import typing
from contextlib import suppress
from enum import Enum
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hakuriver.model import messages
from hakuriver.model.messages import (
    FromHost,
    FromRunner,
    KnownEnd,
    Message,
    decode_from_host,
    decode_from_runner,
    encode,
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
    arguments = get_args(kind)
    if kind in _PLAIN:
        return _PLAIN[kind]
    if get_origin(kind) is Literal:
        return st.sampled_from(arguments)
    if get_origin(kind) is tuple:
        return st.lists(values_of(arguments[0]), max_size=3).map(tuple)
    if get_origin(kind) is dict:
        return st.dictionaries(values_of(arguments[0]), values_of(arguments[1]), max_size=2)
    if arguments:
        return st.one_of(*map(values_of, arguments))
    return st.sampled_from(kind) if issubclass(kind, Enum) else structs_of(kind)


def structs_of(kind: Any) -> st.SearchStrategy[Any]:
    hints = get_type_hints(kind)
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
