"""A runner's messages are as little trusted as a client's requests.

More is tried with ``HAKURIVER_LINK_EXAMPLES=1000``.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
from typing import TYPE_CHECKING, Any, get_args

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hakuriver.model.messages import (
    FromRunner,
    Heartbeat,
    Hello,
    KnownEnd,
    Message,
    Welcome,
    encode,
    messages_from_runner,
)
from hakuriver.model.nodes import Metrics
from hakuriver.model.tasks import TaskState
from support.host_server import open_server
from support.host_world import hello, known, node_info, until

if TYPE_CHECKING:
    from pathlib import Path

    from support.host_server import Server, Wire

# A host is made for each example.
pytestmark = pytest.mark.timeout(3600 if "HAKURIVER_LINK_EXAMPLES" in os.environ else 240)
EXAMPLES = settings(
    max_examples=int(os.environ.get("HAKURIVER_LINK_EXAMPLES", "20")),
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
_OVER = 4000
NAMES = [kind.__name__ for kind in get_args(FromRunner)]
#: Values that some field may choke on.
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, -1, 1 << 31, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, -(1 << 63)]),
    st.sampled_from([math.nan, math.inf, -math.inf, 1e300, -0.0, 0.5]),
    st.text(max_size=5),
    st.binary(max_size=5),
    st.sampled_from([[], {}, [[]], {"": ""}, "x" * 10_000, "\0", "\ud7ff", list(range(1000))]),
)


def whole(ids: list[int]) -> dict[str, dict[str, Any]]:
    """Return a good message of each kind, about tasks of this and of other nodes."""
    task_id = ids[0]
    built: list[Message] = [
        hello(),
        KnownEnd(),
        Heartbeat(metrics=Metrics()),
    ]
    made = {type(one).__name__: msgspec.msgpack.decode(encode(one)) for one in built}
    end = {"status": "completed", "exit_code": 0, "completed_at": 2.0}
    place = {"batch_id": 1, "batch_index": 0, "batch_size": 1, "cpus": [0]}
    log = {"subscription": 1, "size": 1, "offset": 0}
    made |= {
        "Known": {"task_id": task_id, "spec": {"command": "c"}, "placement": place, "exit": end},
        "Started": {"task_id": task_id, "started_at": 1.0, "stdout_path": "", "stderr_path": ""},
        "Measured": {"task_id": task_id, "usage": {"cpu_seconds": 1.0}},
        "Finished": {"task_id": task_id, "exit": end},
        "Discarded": {"task_ids": ids},
        "LogOpened": log,
        "LogChunk": {"subscription": 1, "offset": 0, "data": b"x"},
        "LogReset": {"subscription": 1},
        "LogEnd": {"subscription": 1, "size": 1},
    }
    return {name: {**fields, "type": name} for name, fields in made.items()}


@st.composite
def said(draw: st.DrawFn, ids: list[int]) -> dict[str, Any]:
    """Return a message, good or with something odd in it, also deep within."""
    good = whole([draw(st.sampled_from(ids)), *ids])
    message = msgspec.msgpack.decode(msgspec.msgpack.encode(good[draw(st.sampled_from(NAMES))]))
    for _ in range(draw(st.integers(0, 2))):
        inner = message
        while True:
            name = draw(st.sampled_from(sorted(inner)))
            if not isinstance(inner[name], dict) or not inner[name] or draw(st.booleans()):
                inner[name] = draw(ODD)
                break
            inner = inner[name]
    return dict(message)


async def others(server: Server) -> tuple[list[int], list[str]]:
    """Give another node tasks in several states; return their ids and how they look."""
    wire = await server.join("other", node_info([0, 1]), uid="other")
    ids = await server.submitted(targets=["other"] * 4)
    await server.world.start(ids[0], node="other")
    await server.world.settle()
    del wire
    return ids, await looks(server, ids)


async def looks(server: Server, ids: list[int]) -> list[str]:
    records = [await server.world.record(task_id) for task_id in ids]
    return [f"{one.status} {one.node} {one.exit_code} {one.started_at}" for one in records]


async def told_why(wire: Wire, server: Server) -> None:
    """Fail if the link has closed without a word, or the host no longer answers."""
    if wire.socket.close_code != _OVER:
        assert wire.socket.close_reason, wire.socket.close_code
    assert (await server.ask("/api/nodes")).code == 200
    assert (await server.ask("/api/health")).code == 200
    assert (await server.ask("/api/tasks?limit=1000")).code == 200


async def _attack(path: Path, frames: Any, *, joined: bool) -> None:
    async with open_server(path) as server:
        ids, before = await others(server)
        own = await server.join("evil", uid="evil") if joined else await server.wire("evil")
        for frame in frames(ids):
            try:
                await own.socket.write_message(frame, binary=True)
            except Exception:  # noqa: BLE001 - the host has closed the link
                break
        # The host answers this when it has read all that was sent before.
        own.socket.close(_OVER, "over")
        await own.closed()
        await server.world.settle()
        assert await looks(server, ids) == before
        await told_why(own, server)


def run_attack(path: Path, frames: Any, *, joined: bool, caplog: Any) -> None:
    caplog.clear()
    path.unlink(missing_ok=True)
    with caplog.at_level(logging.INFO):
        asyncio.run(_attack(path, frames, joined=joined))
    assert "Traceback" not in caplog.text
    assert "could not be taken in" not in caplog.text


@EXAMPLES
@given(frames=st.lists(st.binary(max_size=200), min_size=1, max_size=3), joined=st.booleans())
def test_random_bytes_harm_nobody(
    frames: list[bytes], *, joined: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_attack(tmp_path / "host.db", lambda _: frames, joined=joined, caplog=caplog)


@EXAMPLES
@given(data=st.data(), joined=st.booleans())
def test_messages_in_any_order_with_odd_values_harm_nobody(
    data: st.DataObject, *, joined: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def frames(ids: list[int]) -> list[bytes]:
        known_or_not = [*ids, 0, 1, (1 << 63) - 1]
        messages = data.draw(st.lists(said(known_or_not), min_size=1, max_size=8))
        return [msgspec.msgpack.encode(message) for message in messages]

    run_attack(tmp_path / "host.db", frames, joined=joined, caplog=caplog)


@pytest.mark.asyncio
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1.0, 1e300])
@pytest.mark.parametrize("field", ["cpu_percent", "load_average"])
async def test_a_figure_that_is_no_number_breaks_the_link_alone(
    server: Server, field: str, value: float
) -> None:
    """A NaN would be null in the answer, which no client could read, of any node."""
    wire = await server.join()
    await wire.say(Heartbeat(metrics=Metrics(**{field: value})))  # type: ignore[arg-type]
    assert await wire.closed() == 1002
    (node,) = (await server.get("/api/health"))["nodes"]
    assert isinstance(node[field], float)


@pytest.mark.asyncio
async def test_good_words_about_tasks_of_others_change_nothing(server: Server) -> None:
    ids, before = await others(server)
    wire = await server.wire("evil")
    await wire.say(hello(uid="evil"))
    await wire.hear_a(Welcome)
    records = [await server.world.record(task_id) for task_id in ids]
    good = whole(ids)
    for record in records:
        await wire.say(known(record, at=5.0))
    await wire.say(KnownEnd())
    for name in ("Known", "Started", "Measured", "Finished", "Discarded"):
        for task_id in ids:
            fields = good[name] | ({} if name == "Discarded" else {"task_id": task_id})
            frame = msgspec.msgpack.encode(fields)
            assert messages_from_runner(frame)
            await wire.socket.write_message(frame, binary=True)
    # Whatever came before it has been taken in when this shows.
    await wire.say(Heartbeat(metrics=Metrics(cpu_percent=99.0)))
    evil = server.world.cluster.nodes.get("evil")
    await until(lambda: evil.metrics.cpu_percent == 99.0)
    await server.world.settle()
    assert await looks(server, ids) == before
    assert (await server.world.record(ids[0])).status is TaskState.RUNNING


def test_all_kinds_of_messages_are_tried() -> None:
    assert set(whole([1])) == set(NAMES)
    for fields in whole([1]).values():
        (message,) = messages_from_runner(msgspec.msgpack.encode(fields))
        assert type(message).__name__ == fields["type"]
    assert isinstance(messages_from_runner(encode(hello()))[0], Hello)
