"""A host that goes away and comes back, and a node that does not."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

import pytest

from support.kernels import Kernel
from support.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.harness import Cluster
    from support.kernels import Shown


@pytest.fixture
def connected(fresh_cluster: Cluster, tmp_path: Path) -> Iterator[Kernel]:
    """A kernel that uses the cluster of the test alone."""
    token = tmp_path / "token"
    token.write_text(fresh_cluster.token)
    kernel = Kernel(tmp_path / "k")
    try:
        url = f"http://127.0.0.1:{fresh_cluster.port}"
        kernel.run(f"%load_ext hakuriver\n%hakuriver connect {url} --token-file {token}")
        yield kernel
    finally:
        kernel.stop()


@pytest.mark.parametrize("option", ["", "--detach"])
def test_the_status_line_says_so_until_it_is_back_and_no_line_is_lost(
    fresh_cluster: Cluster, connected: Kernel, tmp_path: Path, option: str
) -> None:
    gate = tmp_path / "gate"
    running = connected.start(
        f"%%hakuriver -t node1 {option} --env GATE={gate}\n"
        "import itertools, os, time\n"
        "for n in itertools.count():\n"
        "    print(n)\n"
        "    if os.path.exists(os.environ['GATE']): break\n"
        "    time.sleep(0.02)"
    )
    running.until("\n5\n")
    running.until("· running")
    began = time.monotonic()
    fresh_cluster.kill("host")
    silence = re.compile(
        rf"the host at http://127\.0\.0\.1:{fresh_cluster.port} has not answered for (\d+) s"
        r"; the task goes on, waiting for it$"
    )

    def silent(shown: Shown) -> int:
        found = silence.search(shown.status)
        return int(found[1]) if found else 0

    first = silent(running.until_it(lambda shown: silent(shown) > 0, what="the host is silent"))
    # Rounded, and told no later than a slow machine comes to it.
    assert first <= time.monotonic() - began + 0.5
    assert first < 10
    later = silent(running.until_it(lambda shown: silent(shown) > first, what="it goes on"))
    assert later <= time.monotonic() - began + 0.5
    fresh_cluster.restart("host")
    running.until_it(lambda shown: shown.status.endswith("· running"))
    gate.touch()
    shown = running.until("completed") if option else running.finish()
    lines = shown.stdout.splitlines()
    assert len(lines) > 20
    assert lines == [str(number) for number in range(len(lines))]
    assert re.fullmatch(r"✓ task \d+ · node1 · completed in [\d.]+ s", shown.status)


def test_a_node_that_is_gone_for_good_is_forgotten(
    fresh_cluster: Cluster, connected: Kernel
) -> None:
    fresh_cluster.kill("node2")
    wait_until(lambda: fresh_cluster.node_status("node2") == "offline")
    assert "node2" in connected.run("%hakuriver forget node2").stdout
    assert "node2" not in connected.run("%hakuriver nodes").result["text/plain"]
