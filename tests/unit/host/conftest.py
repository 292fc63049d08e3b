"""A host's parts for one test."""

from __future__ import annotations

import asyncio
import shutil
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from hakuriver.host.store import Store
from support.host_server import open_server
from support.host_world import open_world

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from support.host_server import Server
    from support.host_world import World


@pytest.fixture(scope="session")
def _empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database, made once: to make one costs more than most tests."""
    path = tmp_path_factory.mktemp("empty") / "host.db"
    Store(path, cluster_id="cluster").close()
    return path


@pytest.fixture
def database(tmp_path: Path, _empty: Path) -> Path:
    """The path of an empty database for one test."""
    path = tmp_path / "host.db"
    shutil.copy(_empty, path)
    return path


@pytest_asyncio.fixture
async def world(database: Path) -> AsyncIterator[World]:
    async with open_world(database) as made:
        yield made


@pytest_asyncio.fixture
async def server(database: Path) -> AsyncIterator[Server]:
    async with open_server(database) as made:
        yield made


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await asyncio.to_thread(
        Store, tmp_path / "deep" / "er" / "host.db", cluster_id="cluster"
    )
    yield opened
    await asyncio.to_thread(opened.close)
