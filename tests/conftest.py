"""Fixtures for everyone: a cluster that tests share, and one for a test alone."""

from __future__ import annotations

import signal
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from support.harness import Cluster, started

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


# A run in the background of a shell has interrupts ignored, and all that it starts inherits that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def _shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with started(Cluster(tmp_path_factory.mktemp("cluster"))) as cluster:
        yield cluster


@pytest.fixture
def cluster(_shared_cluster: Cluster) -> Iterator[Cluster]:
    """A host and two nodes of one CPU each, shared by all tests; it must be left in order."""
    yield _shared_cluster
    _shared_cluster.after_test()


@pytest.fixture
def make_cluster(tmp_path: Path) -> Iterator[Callable[..., Cluster]]:
    """Make clusters that are not started yet, with the options of `Cluster`, for one test."""
    made: list[Cluster] = []

    def make(**options: object) -> Cluster:
        cluster = Cluster(tmp_path / f"c{len(made)}", **options)  # type: ignore[arg-type]
        made.append(cluster)
        return cluster

    try:
        yield make
    finally:
        # All are stopped, whatever one of them has to complain of.
        with ExitStack() as stopping:
            for cluster in made:
                stopping.callback(cluster.stop)
    for cluster in made:
        cluster.check_logs()


@pytest.fixture
def fresh_cluster(make_cluster: Callable[..., Cluster]) -> Cluster:
    """A host and two nodes of one CPU each, for one test alone."""
    cluster = make_cluster()
    cluster.start()
    return cluster
