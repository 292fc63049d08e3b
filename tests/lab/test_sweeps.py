"""A sweep on machines that are not this one: spread, bound, one batch, and resumed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hakuriver.sweep.cluster.options import ClusterOptions
from hakuriver.sweep.sweep import Sweep

if TYPE_CHECKING:
    from pathlib import Path

    from lab.lab import Lab

SCRIPT = """
memory=$(numactl --show | sed -n 's/^membind: *//p')
echo "$HAKURIVER_NODE:${memory% } $1"
test "$1" != fails || test -e /shared/mended
"""
TARGETS = ("node1:0", "node1:1", "node2:1")


def test_a_sweep_is_spread_over_real_machines_and_resumed(lab: Lab, tmp_path: Path) -> None:
    mended = lab.shared / "mended"
    mended.unlink(missing_ok=True)
    config, journal = str(lab.cluster.config), tmp_path / "journal.jsonl"
    options = ClusterOptions(TARGETS, memory=32 << 20, config=config)
    words = ["sh", "-c", SCRIPT, "sh", "span:[a,b,c,d,e,fails]"]
    first = Sweep(words, journal=journal, cluster=options).run()
    assert [record["exit_code"] for record in first] == [0, 0, 0, 0, 0, 1]
    for record, value in zip(first, ["a", "b", "c", "d", "e", "fails"], strict=True):
        assert record["last_line"] == f"{record['target']} {value}"
    assert {record["target"] for record in first} == set(TARGETS)
    mended.touch()
    second = Sweep.resume(str(journal), config=config).run()
    assert [record["exit_code"] for record in second] == [0] * 6
    ids = {record["task_id"] for record in (*first, *second)}
    assert len(ids) == 7
    assert len({lab.client.task(task_id).status().batch_id for task_id in ids}) == 1
