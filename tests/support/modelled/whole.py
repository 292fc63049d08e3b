"""Host, runners, network and machines as one, and the invariants of the protocol.

`Whole` is the ground that the steps of `Protocol` tread on: it carries frames, turns the event
loop, and looks at what is on disk. At the end every task must be told as it truly went.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hypothesis.stateful import RuleBasedStateMachine, invariant

from hakuriver.model.tasks import FINAL, TaskState
from hakuriver.runner import supervision
from hakuriver.runner.exits import decide
from support.modelled.ground import NODES, empty_database, fast_folder
from support.modelled.host import Host
from support.modelled.loop import HandTurned
from support.modelled.node import Machine, Node
from support.modelled.wires import Pipe

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine

LOST = TaskState.LOST.value
FINALS = {state.value for state in FINAL}
CERTAIN = FINALS - {LOST}
#: More frames or turns than there ever are.
ALL = 1 << 20


class Whole(RuleBasedStateMachine):
    """One host and two nodes, and what must always be so of them."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(dir=fast_folder()))
        (self.root / "host.db").write_bytes(empty_database())
        self.loop = HandTurned()
        self.host = Host(self.root / "host.db", self.spawn)
        self.reachable = dict.fromkeys(NODES, True)
        self.nodes: dict[str, Node] = {}
        for name, info in NODES.items():
            folder = self.root / name
            folder.mkdir()
            (folder / "scripts").mkdir()
            machine = Machine(folder, info)
            self.nodes[name] = Node(machine, name, spawn=self.spawn, dial=self.dial)
        #: What the database has said for certain of a task.
        self.certain: dict[int, tuple[str, int | None]] = {}
        #: Tasks whose end or start an old copy of the database, or a power cut, made doubtful.
        self.may_start_again: set[int] = set()
        self.may_be_lost: set[int] = set()
        self.was_restored = self.was_faulty = self.was_cut = False
        self.copy: Path | None = None
        self.generation, supervision._GENERATION = supervision._GENERATION, 2

    # -- driving ----------------------------------------------------------------------------

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return self.loop.create_task(work)

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        self.loop.run_until_complete(work)

    def dial(self, name: str) -> Pipe:
        if not (self.host.is_up and self.reachable[name]):
            raise ConnectionRefusedError("no way to the host")
        pipe = Pipe(name)
        self.host.accept(pipe)
        return pipe

    def pipes(self, name: str) -> list[Pipe]:
        node = self.nodes[name]
        node.pipes = [pipe for pipe in node.pipes if not pipe.is_over]
        return node.pipes

    def flow(self) -> None:
        """Deliver everything, and let everybody do what follows from it."""
        for _ in range(200):
            self.loop.quiet()
            pipes = [pipe for name in self.nodes for pipe in self.pipes(name)]
            if not any(pipe.up or pipe.down for pipe in pipes):
                return
            for pipe in pipes:
                self.loop.within(partial(pipe.carry_up, ALL))
                self.loop.within(partial(pipe.carry_down, ALL))
                if pipe.runner.over:
                    pipe.down.clear()
                if pipe.host is None:
                    pipe.up.clear()
        raise AssertionError("they never stop talking")

    def pause(self, lull: int) -> None:
        if lull == ALL:
            self.flow()
        else:
            self.loop.turn(lull)

    def each(self, what: Callable[[Machine, int], None], of: list[dict[int, Any]]) -> None:
        for node, ids in zip(self.nodes.values(), of, strict=True):
            for task_id in list(ids):
                self.loop.within(partial(what, node.machine, task_id))

    # -- what must always be so -------------------------------------------------------------

    @invariant()
    def all_that_holds(self) -> None:
        self.nobody_has_met_a_fault()
        self.an_id_that_was_received_is_stored()
        self.a_task_starts_at_most_once()
        self.a_result_is_kept_until_the_host_has_it()
        self.what_is_certain_stays()
        self.everything_is_accounted_once()
        self.processes_share_no_cpu()

    def nobody_has_met_a_fault(self) -> None:
        assert self.loop.troubles == []
        for node in self.nodes.values():
            assert node.troubles is None, node.troubles

    def an_id_that_was_received_is_stored(self) -> None:
        rows = self.host.rows()
        told = {key for node in self.nodes.values() for key in node.machine.entries()}
        missing = self.host.received - set(rows)
        assert not missing - (told if self.was_restored else set()), "an id was lost"

    def a_task_starts_at_most_once(self) -> None:
        for task_id, count in self.starts().items():
            assert count <= 1 or task_id in self.may_start_again, f"{task_id} started twice"

    def starts(self) -> dict[int, int]:
        counted: dict[int, int] = {}
        for node in self.nodes.values():
            for task_id, count in node.machine.starts.items():
                counted[task_id] = counted.get(task_id, 0) + count
        return counted

    def a_result_is_kept_until_the_host_has_it(self) -> None:
        rows = self.host.rows()
        for node in self.nodes.values():
            machine = node.machine
            kept = machine.entries()
            for task_id, ends in machine.ends.items():
                status = rows.get(task_id, ("", None, None))[0]
                if status in CERTAIN or task_id in self.may_be_lost or self.was_restored:
                    continue
                if status == LOST and None in ends:
                    continue
                entry = kept.get(task_id)
                assert entry is not None, f"the end of {task_id} is forgotten"
                held = entry.exit is not None or task_id in machine.records
                assert held or None in ends, f"how {task_id} ended is forgotten"

    def what_is_certain_stays(self) -> None:
        for task_id, (status, code, _) in self.host.rows().items():
            said = self.certain.get(task_id)
            assert said in (None, (status, code)), f"{task_id} was {said}, is {status}"
            if status in CERTAIN:
                self.certain[task_id] = (status, code)

    def everything_is_accounted_once(self) -> None:
        if self.host.cluster is None:
            return
        scheduler = self.host.cluster.scheduler
        for name, info in NODES.items():
            machine = scheduler._machines.get(name)
            if machine is None or not machine.whole.cpus:
                continue
            room = machine.room()
            held = [one.cpus for one in machine.held.values()]
            assert room.cpus == set(info.cpus).difference(*held)
            if self.was_restored:
                continue
            assert sum(map(len, held)) == len(set().union(*held)), "a CPU is held twice"
            assert machine.memory_in_use() <= info.memory_bytes
            for numa, part in info.numa_topology.items():
                assert machine.memory_in_use(int(numa)) <= part.memory_bytes

    def processes_share_no_cpu(self) -> None:
        for name, node in self.nodes.items():
            orders = [*node.machine.living.values(), *node.machine.waiting.values()]
            cpus = [cpu for order in orders if order.cores for cpu in order.cpus]
            assert len(cpus) == len(set(cpus)) or self.was_restored, f"on {name}"

    # -- the end ----------------------------------------------------------------------------

    def is_at_rest(self) -> bool:
        cluster = self.host.cluster
        journals = [node.journal for node in self.nodes.values()]
        return (
            cluster is not None
            and not cluster.tasks
            and not any(journal is None or journal.entries for journal in journals)
        )

    def check_the_whole(self) -> None:
        rows = self.host.rows()
        unfinished = {key: row for key, row in rows.items() if row[0] not in FINALS}
        assert not unfinished, f"without an end: {unfinished}"
        for node in self.nodes.values():
            assert node.journal is not None
            assert not node.journal.entries, f"never acknowledged: {node.journal.entries}"
        cluster = self.host.cluster
        assert cluster is not None
        assert not cluster.scheduler._held, "what ended holds something"
        self.all_that_holds()
        batches = self.host.batches_on_disk()
        for task_id, (status, code, _) in rows.items():
            self.check_truth(task_id, status, code)
            assert self.host.batches.get(task_id, batches[task_id]) == batches[task_id]

    def check_truth(self, task_id: int, status: str, code: int | None) -> None:
        ends = [end for node in self.nodes.values() for end in node.machine.ends.get(task_id, [])]
        decided = [decide(end) for end in ends if end is not None]
        truths = {(end.status.value, end.exit_code) for end in decided}
        if not ends:
            # After a power cut nobody may know any more that it was refused.
            lost = status == LOST and self.was_cut
            assert lost or status in ("killed", "failed"), f"{task_id} never ran, but is {status}"
            asked = task_id in self.host.killed or self.was_restored
            assert asked if status == "killed" else self.was_faulty, f"{task_id}: {status}"
            return
        if task_id in self.may_be_lost or self.was_restored:
            truths |= {(LOST, None), ("failed", None), ("killed", None)}
        if None in ends:
            # Whether it had begun nobody knows who was not told: "start interrupted".
            truths |= {(LOST, None), ("failed", None)}
        assert (status, code) in truths, f"{task_id} is {status} {code}, in truth {truths}"
