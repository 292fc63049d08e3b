"""The whole protocol between host and runners, tried in every order of events.

``HAKURIVER_PROTOCOL_EXAMPLES`` asks for more runs than the suite has time for, each another time
different ones. What the machine looks for is told in `support.modelled.whole`; that it finds it
is shown by breaking each invariant on purpose.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RULE_MARKER, run_state_machine_as_test

from hakuriver.host.cluster import Cluster
from hakuriver.host.submission import Submission
from hakuriver.model.messages import Acknowledge, Finished, Launch, Started
from hakuriver.model.tasks import Exit, TaskState
from hakuriver.runner.journal import Journal
from hakuriver.runner.records import Forgotten
from hakuriver.runner.supervision import Supervision
from support.modelled.protocol import Protocol
from support.modelled.whole import ALL

if TYPE_CHECKING:
    from collections.abc import Awaitable

_ASKED = os.environ.get("HAKURIVER_PROTOCOL_EXAMPLES")
SETTINGS = settings(
    max_examples=int(_ASKED or 50),
    derandomize=_ASKED is None,
    stateful_step_count=50,
    deadline=None,
    database=None,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)
#: Enough to find what is broken on purpose; nobody needs the smallest example of that.
BROKEN = settings(SETTINGS, max_examples=150, derandomize=True, phases=[Phase.generate])

pytestmark = [
    # A process that is killed does not run what it had begun.
    pytest.mark.filterwarnings("ignore:coroutine '.*' was never awaited:RuntimeWarning"),
    pytest.mark.timeout(3600 if _ASKED else 240),
]


def test_the_invariants_hold_in_every_order_of_events() -> None:
    run_state_machine_as_test(Protocol, settings=SETTINGS)


#: What may happen where nothing else would lead to the fault: it is found sooner.
WORK = ("submit_to_all", "process_begins", "process_ends", "go_on", "pass_time")
RULES = {name for name, what in vars(Protocol).items() if hasattr(what, RULE_MARKER)}


def breaks(words: str, *rules: str) -> None:
    """Fail unless the machine, with some of its rules, finds what it says in `words`."""
    assert RULES.issuperset(rules)
    left_out = dict.fromkeys(RULES.difference(rules)) if rules else {}
    machine = type("Narrowed", (Protocol,), left_out)
    with pytest.raises(AssertionError, match=words):
        run_state_machine_as_test(machine, settings=BROKEN)


def test_an_id_that_is_answered_before_it_is_stored_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def answer_at_once(_: Submission, added: Awaitable[None], reply: Any) -> Any:
        asyncio.ensure_future(added)  # noqa: RUF006 - what a careless host would do
        return reply

    monkeypatch.setattr(Submission, "_answer", answer_at_once)
    breaks("an id was lost", "submit")


def test_a_repeated_launch_that_is_not_recognised_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def always_start(self: Supervision, message: Launch) -> None:
        if await self._journaled(message):
            await self._start(message)
        self._arrived(message.task_id)

    # A link that breaks at the end of its exchange has the launches of that repeated.
    monkeypatch.setattr(Supervision, "_launch", always_start)
    launch = Cluster._send_launch

    def repeat(self: Cluster, message: Launch) -> None:
        launch(self, message)
        launch(self, message)

    monkeypatch.setattr(Cluster, "_send_launch", repeat)
    breaks("started twice", *WORK)


def test_a_start_before_its_journal_is_written_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    async def lazily(self: Journal, record: Any) -> None:
        self.append_lazily(record)

    monkeypatch.setattr(Journal, "append_durably", lazily)
    breaks("started twice|is forgotten", *WORK, "runner_crashes_or_comes_back")


def test_a_result_that_is_forgotten_too_soon_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    end = Supervision._end

    def forget(self: Supervision, task_id: int, how: Exit) -> None:
        end(self, task_id, how)
        self._journal.append_lazily(Forgotten(task_id=task_id))

    monkeypatch.setattr(Supervision, "_end", forget)
    breaks("is forgotten", *WORK)


def test_an_end_that_is_acknowledged_before_it_is_stored_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    finished = Cluster.finished

    async def acknowledge_first(self: Cluster, node: str, message: Finished) -> None:
        self.nodes.send(node, Acknowledge(task_id=message.task_id))
        await finished(self, node, message)

    monkeypatch.setattr(Cluster, "finished", acknowledge_first)
    # Of all orders of events one: by chance it takes too long to come by.
    machine = Protocol()
    machine.begin()
    machine.submit_to_all(began=True)
    machine.pass_time(0.06)
    machine.go_on(ALL)
    machine.process_ends(0, 0, 3)
    machine.carry(0, 3, 0)
    machine.go_on(2)
    machine.host_crashes_or_comes_back(0, 3, ALL)
    with pytest.raises(AssertionError, match="is forgotten"):
        machine.teardown()


def test_a_belief_that_outlives_the_truth_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    async def no_truth(self: Cluster, node: str, message: Started | Finished) -> None:
        if (await self.get(message.task_id)).status is TaskState.LOST:
            self.nodes.send(node, Acknowledge(task_id=message.task_id))
        else:
            await truth[type(message)](self, node, message)

    truth: dict[type, Any] = {Started: Cluster.started, Finished: Cluster.finished}
    monkeypatch.setattr(Cluster, "started", no_truth)
    monkeypatch.setattr(Cluster, "finished", no_truth)
    breaks("is forgotten|in truth", *WORK, "partition_past_the_timeout")


def test_cores_that_are_not_accounted_after_a_restart_are_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Cluster, "_hold", lambda *_: None)
    breaks("held twice|share|on a|on b", "submit_to_all", "host_crashes_or_comes_back", "pass_time")
