"""The lab, for the whole session: built, booted and joined once."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import pytest

from lab.lab import Lab

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# A command in a machine takes long, and the first test waits for the lab.
_TIMEOUT = 600


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the tests in this folder their own time limit."""
    for item in items:
        if "lab" in item.path.parts and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(_TIMEOUT))


@pytest.fixture(scope="session")
def _shared_lab(
    tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Iterator[Lab]:
    lab = Lab(tmp_path_factory.mktemp("lab"), _teller(pytestconfig))
    try:
        lab.start()
        yield lab
    finally:
        lab.close()


@pytest.fixture
def lab(_shared_lab: Lab) -> Iterator[Lab]:
    """Two machines, each a node, and the host outside; a test must leave them in order."""
    yield _shared_lab
    _shared_lab.settle()


def _teller(config: pytest.Config) -> Callable[[str], None]:
    """Return what shows progress while it happens, past the capture of output."""
    capture = config.pluginmanager.getplugin("capturemanager")
    begin = time.monotonic()

    def tell(text: str) -> None:
        with capture.global_and_fixture_disabled():
            sys.stderr.write(f"\nlab {time.monotonic() - begin:5.1f} s: {text}")
            sys.stderr.flush()

    return tell
