"""A host's parts for one test."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest_asyncio

from hakuriver.host.store import Store
from support.host_server import open_server
from support.host_world import open_world

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from support.host_server import Server
    from support.host_world import World


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path / "host" / "host.db") as made:
        yield made


@pytest_asyncio.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with open_server(tmp_path / "host" / "host.db") as made:
        yield made


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await asyncio.to_thread(Store, tmp_path / "deep" / "er" / "host.db")
    yield opened
    await asyncio.to_thread(opened.close)
