from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from hakuriver.errors import Conflict
from hakuriver.host import local
from hakuriver.host.local import shared_log
from hakuriver.logfiles import TaskFiles
from hakuriver.model.messages import LogChunk, LogOpen
from support.host_server import CONFIG, open_server

if TYPE_CHECKING:
    from pathlib import Path

    from hakuriver.config import Config

pytestmark = pytest.mark.asyncio


def shared(folder: Path) -> Config:
    paths = msgspec.structs.replace(CONFIG.paths, shared_dir=str(folder))
    return msgspec.structs.replace(CONFIG, paths=paths)


async def content(folder: Path, **request: Any) -> tuple[bytes, int, int]:
    """Return what is read of the log of task 7, from where, and the log's size."""
    asked = LogOpen(subscription=0, task_id=7, stream="stdout", **request)
    log = shared_log(shared(folder), asked)
    assert log is not None
    with log as source:
        opened = await source.opened()
        found, position = b"", opened.offset
        while isinstance(message := await source.next(), LogChunk):
            assert message.offset == position
            source.consumed(len(message.data))
            found, position = found + message.data, position + len(message.data)
        assert message.size == position
    return found, opened.offset, opened.size


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(local, "MAX_CHUNK", 4)
    files = TaskFiles(tmp_path)
    files.make()
    files.log(7, "stdout").write_bytes(b"one\ntwo\nthree\n")
    return tmp_path


@pytest.mark.parametrize(
    ("request_", "found"),
    [
        ({}, (b"one\ntwo\nthree\n", 0, 14)),
        ({"offset": 8}, (b"three\n", 8, 14)),
        ({"offset": 99}, (b"", 14, 14)),
        ({"tail": 2}, (b"two\nthree\n", 4, 14)),
        ({"tail": 0}, (b"", 14, 14)),
        ({"offset": 2, "limit": 5}, (b"e\ntwo", 2, 14)),
        ({"limit": 0}, (b"", 0, 14)),
    ],
)
async def test_parts_of_a_log(
    folder: Path, request_: dict[str, int], found: tuple[bytes, int, int]
) -> None:
    assert await content(folder, **request_) == found


async def test_without_a_shared_directory_there_is_none() -> None:
    assert shared_log(CONFIG, LogOpen(subscription=0, task_id=7, stream="stdout")) is None


async def test_a_log_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert await content(tmp_path, tail=3) == (b"", 0, 0)


async def test_nothing_is_read_through_a_link(folder: Path) -> None:
    path = TaskFiles(folder).log(7, "stdout")
    path.rename(folder / "secret")
    path.symlink_to(folder / "secret")
    with pytest.raises(Conflict, match="cannot be read"):
        await content(folder)


async def test_the_host_reads_for_a_node_that_is_away(folder: Path, tmp_path: Path) -> None:
    async with open_server(tmp_path / "host.db", shared(folder)) as server:
        await server.join()
        (task_id,) = await server.submitted()
        await server.world.start(task_id)
        TaskFiles(folder).log(task_id, "stderr").write_bytes(b"0123456789")
        server.wires[0].socket.close()
        await server.wires[0].closed()
        await server.world.settle()
        response = await server.ask(f"/task/{task_id}/stderr", Range="bytes=3-5")
        assert (response.code, response.body) == (206, b"345")
