"""A kernel with an embedded cluster of two nodes, started by the magic, for all notebook tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.kernels import Kernel
from support.processes import check_no_leftovers

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    folder = tmp_path_factory.mktemp("nb")
    kernel = Kernel(folder)
    try:
        kernel.run("%load_ext hakuriver")
        shown = kernel.run("%hakuriver up --nodes 2")
        assert "node1, node2" in shown.stdout
        yield kernel
    finally:
        down = kernel.run("%hakuriver down", ok=None)
        kernel.stop()
        check_no_leftovers(folder)
    assert down.ok, down
