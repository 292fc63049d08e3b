"""What the tasks of a campaign write to the disk themselves, and whether the host tells the same.

Each task has a file of its own, to which it appends ``start`` and ``end``: a second start would
show, and so would an end that nobody was told of.
"""

from __future__ import annotations

import shlex
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from faults.plan import Work

# `printf` is built into the shell: each line is one write of a few bytes.
_SCRIPT = """
printf 'start %s %s\\n' "$HAKURIVER_TASK_ID" $$ >> "$0/$1"
printf . >> "$0/count"
{body}
printf 'end %s\\n' "$HAKURIVER_TASK_ID" >> "$0/$1"
exit {code}
"""
#: How a task ends that was journaled by a runner which died before it could start it.
INTERRUPTED = "start interrupted"


@dataclass
class Findings:
    """What a campaign's tasks came to; `wrong` is what must be empty."""

    states: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    double_starts: int = 0
    logs_compared: int = 0
    wrong: list[str] = field(default_factory=list)


class Truth:
    """The folder in which tasks note what they do."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        (folder / "count").touch()

    def started(self) -> int:
        """Return how many starts there were so far."""
        return (self.folder / "count").stat().st_size

    def command(self, work: Work) -> list[str]:
        """Return the program that does a work, and writes down that it does."""
        body = {
            "sleeps": f"sleep {work.amount}",
            "prints": f"seq {int(work.amount)}",
            "floods": f"seq {int(work.amount)}",
            "crashes": "kill -SEGV $$",
            "endless": "sleep 1000",
        }.get(work.job, ":")
        code = int(work.amount) if work.job == "fails" else 0
        script = _SCRIPT.format(body=body, code=code)
        return ["sh", "-c", script, str(self.folder), str(work.index)]

    def noted(self, work: Work) -> tuple[list[str], int]:
        """Return the ids under which a work started, and how many times it came to its end."""
        try:
            lines = (self.folder / str(work.index)).read_text("utf-8").splitlines()
        except FileNotFoundError:
            return [], 0
        words = [shlex.split(line) for line in lines]
        return [word[1] for word in words if word[0] == "start"], len(
            [word for word in words if word[0] == "end"]
        )

    def judge(self, findings: Findings, work: Work, tasks: Iterable[Any]) -> None:
        """Compare what the host shows of a work's tasks with what they noted."""
        shown = list(tasks)
        starts, ends = self.noted(work)
        findings.double_starts += max(0, len(starts) - 1)
        if len(shown) != 1:
            findings.wrong.append(f"{work}: {len(shown)} tasks for one submission")
            return
        (task,) = shown
        findings.states[task["status"]] += 1
        if task["reason"]:
            findings.reasons[_kind_of(task["reason"])] += 1
        fault = _fault(work, task, starts, ends)
        if fault:
            findings.wrong.append(f"{work}: {fault} (noted {starts}, {ends} ends; shown {task})")


def _fault(work: Work, task: Any, starts: list[str], ends: int) -> str | None:
    status, code, reason = task["status"], task["exit_code"], task["reason"] or ""
    if len(starts) > 1:
        return "started more than once"
    if starts and starts != [task["task_id"]]:
        return "started under another id"
    if status == "failed" and INTERRUPTED in reason:
        return "was started after all" if starts else None
    wanted: dict[str, tuple[str, int | None, int, int]] = {
        "fails": ("failed", int(work.amount), 1, 1),
        "crashes": ("failed", -11, 1, 0),
        "endless": ("killed", code, len(starts), 0),
    }
    expected = wanted.get(work.job, ("completed", 0, 1, 1))
    found = (status, code, len(starts), ends)
    return None if found == expected else f"is {found}, expected {expected}"


def _kind_of(reason: str) -> str:
    return "exit code" if reason.startswith("exit") else reason
