from __future__ import annotations

import random
import sys
from typing import TYPE_CHECKING, Any

import pytest

from faults.campaign import Campaign
from faults.plan import Work, blows, works
from faults.truth import Findings, Truth

if TYPE_CHECKING:
    from pathlib import Path

_NODES = ["node1", "node2"]


@pytest.mark.timeout(500)
def test_a_short_campaign_loses_nothing_and_starts_nothing_twice(tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    again = f"again with: python tests/faults --seed {seed} --kills 15 --tasks 150"
    sys.stdout.write(f"{again}\n")  # shown with whatever fails
    report = Campaign(tmp_path, seed=seed, kills=15, tasks=150, tell=sys.stdout.write).run()
    assert not report.findings.wrong, "\n".join(report.lines())
    assert report.findings.double_starts == 0
    assert report.findings.logs_compared > 0
    assert sum(report.findings.states.values()) == 150
    assert sum(report.kills.values()) >= 15


def test_the_same_seed_plans_the_same() -> None:
    plan = blows(3, kills=50, tasks=500, nodes=_NODES)
    assert plan == blows(3, kills=50, tasks=500, nodes=_NODES)
    assert plan != blows(4, kills=50, tasks=500, nodes=_NODES)
    assert [blow.after for blow in plan] == sorted(blow.after for blow in plan)
    assert len([blow for blow in plan if blow.kind == "kill"]) == 50
    assert works(3, tasks=9, nodes=_NODES) == works(3, tasks=9, nodes=_NODES)


class Told:
    """A work, what it wrote down, and what a host shows of it."""

    def __init__(self, tmp_path: Path, *, job: Any = "short", amount: float = 0) -> None:
        self.truth = Truth(tmp_path / "truth")
        self.work = Work(index=5, job=job, amount=amount, target=None, cores=1)
        self.shown = {"task_id": "77", "status": "completed", "exit_code": 0, "reason": None}
        self.file = self.truth.folder / "5"
        self.file.write_text("start 77 1\nend 77\n")

    def wrong(self, *shown: dict[str, object]) -> list[str]:
        findings = Findings()
        self.truth.judge(findings, self.work, shown or (self.shown,))
        return findings.wrong


def test_what_is_true_is_found_right(tmp_path: Path) -> None:
    assert Told(tmp_path).wrong() == []


@pytest.mark.parametrize(
    ("noted", "shown"),
    [
        ("start 77 1\nend 77\nstart 77 2\nend 77\n", {}),
        ("start 78 1\nend 78\n", {}),
        ("start 77 1\n", {}),
        ("", {}),
        ("start 77 1\nend 77\n", {"status": "lost", "exit_code": None, "reason": "silent"}),
        ("start 77 1\nend 77\n", {"status": "failed", "exit_code": 1}),
        ("start 77 1\nend 77\n", {"status": "failed", "reason": "start interrupted"}),
    ],
)
def test_what_is_not_true_is_found(tmp_path: Path, noted: str, shown: dict[str, object]) -> None:
    told = Told(tmp_path)
    told.file.write_text(noted)
    assert told.wrong({**told.shown, **shown})


def test_a_lost_and_a_doubled_submission_are_found(tmp_path: Path) -> None:
    told = Told(tmp_path)
    assert told.wrong(told.shown, told.shown)
    findings = Findings()
    told.truth.judge(findings, told.work, [])
    assert findings.wrong


def test_a_killed_task_that_came_to_its_end_is_found(tmp_path: Path) -> None:
    told = Told(tmp_path, job="endless")
    assert told.wrong({**told.shown, "status": "killed", "exit_code": -15})
    told.file.write_text("start 77 1\n")
    assert not told.wrong({**told.shown, "status": "killed", "exit_code": -15})
