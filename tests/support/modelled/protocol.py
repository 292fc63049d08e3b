"""Host, runners, network and machines as one state machine, with the invariants of the protocol.

Hypothesis picks what happens next: submissions, kills, starts and ends of processes, frames that
arrive, links that break, crashes of host and runners at any turn of the event loop, power cuts,
full disks, partitions, and databases put back from a copy. After each step `Protocol` looks at
what is on disk; at the end everything is delivered, and every task must be told as it truly went.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis.strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from hakuriver.model.tasks import FINAL, TaskState
from hakuriver.runner import supervision
from hakuriver.runner.exits import decide
from support.modelled.ground import GIB, NODES, TARGETS, empty_database, fast_folder
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

names = st.sampled_from(sorted(NODES))
some = st.integers(0, 3)
picks = st.integers(0, 7)
#: How much is done before the next step: so many turns of the loop, or all there is to do.
lulls = st.sampled_from([0, 1, 2, 3, 4, 6, 9, ALL, ALL, ALL])


class Protocol(RuleBasedStateMachine):
    """One host and two nodes, from an empty database to the last word about every task."""

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

    @initialize()
    def begin(self) -> None:
        self.host.start(self.run)
        for node in self.nodes.values():
            node.start()
        self.flow()

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

    # -- what clients do --------------------------------------------------------------------

    @precondition(lambda self: self.host.is_up)
    @rule(
        where=st.sampled_from(TARGETS),
        cores=st.integers(0, 2),
        memory=st.sampled_from([None, None, GIB // 2, GIB]),
        lull=lulls,
    )
    def submit(self, where: list[str] | None, cores: int, memory: int | None, lull: int) -> None:
        self.host.submit(where, required_cores=cores, required_memory_bytes=memory)
        self.pause(lull)

    @precondition(lambda self: self.host.is_up)
    @rule(began=st.booleans())
    def submit_to_all(self, *, began: bool) -> None:
        self.host.submit(["a:0", "a", "b", "a:1"])
        self.flow()
        if began:
            self.each(Machine.begin, [node.machine.waiting for node in self.nodes.values()])

    @precondition(lambda self: self.host.is_up and self.host.received)
    @rule(pick=picks, lull=lulls)
    def kill(self, pick: int, lull: int) -> None:
        self.host.kill(_chosen(self.host.received, pick))
        self.pause(lull)

    # -- what the network does --------------------------------------------------------------

    @precondition(lambda self: self.has_pipes())
    @rule(pick=picks, up=some, down=some)
    def carry(self, pick: int, up: int, down: int) -> None:
        """Let some frames of a link arrive."""
        pipe = self.chosen_pipe(pick)
        self.loop.within(partial(pipe.carry_up, up))
        self.loop.within(partial(pipe.carry_down, down))

    @precondition(lambda self: self.has_pipes())
    @rule(pick=picks, up=some, down=some, heard=st.booleans(), told=st.booleans())
    def cut(self, pick: int, up: int, down: int, *, heard: bool, told: bool) -> None:
        """Break a link; either end may not notice."""
        pipe = self.chosen_pipe(pick)
        pipe.cut_up(up, noticed=heard)
        pipe.cut_down(down, noticed=told)

    @rule(name=names, there=st.booleans(), lull=lulls)
    def route(self, name: str, *, there: bool, lull: int) -> None:
        """Open or close the way for new links, and let both ends notice what is cut."""
        self.reachable[name] = there
        self.notice(name)
        self.pause(lull)

    def notice(self, name: str) -> None:
        for pipe in self.pipes(name):
            pipe.notice()

    def has_pipes(self) -> bool:
        return any(map(self.pipes, self.nodes))

    def chosen_pipe(self, pick: int) -> Pipe:
        pipes = [pipe for name in self.nodes for pipe in self.pipes(name)]
        return pipes[pick % len(pipes)]

    # -- time -------------------------------------------------------------------------------

    @rule(lull=lulls)
    def go_on(self, lull: int) -> None:
        self.pause(lull)

    @rule(seconds=st.sampled_from([0.004, 0.06, 0.4, 1.1, 6.0]))
    def pass_time(self, seconds: float) -> None:
        self.loop.advance(seconds)

    @precondition(lambda self: self.host.is_up)
    @rule(name=names, lull=lulls)
    def partition_past_the_timeout(self, name: str, lull: int) -> None:
        self.host.miss(name)
        self.pause(lull)

    # -- what machines do -------------------------------------------------------------------

    @precondition(lambda self: any(node.machine.waiting for node in self.nodes.values()))
    @rule(pick=picks, lull=lulls, code=st.sampled_from([None, None, 0, 5]))
    def process_begins(self, pick: int, lull: int, code: int | None) -> None:
        """Let a program run; with a code it ends at once."""
        machine, task_id = self.one_of(pick, "waiting")
        self.loop.within(partial(machine.begin, task_id))
        if code is not None:
            self.loop.within(partial(machine.end, task_id, code))
        self.pause(lull)

    @precondition(lambda self: any(node.machine.living for node in self.nodes.values()))
    @rule(pick=picks, code=st.sampled_from([0, 0, 3, -9]), lull=lulls)
    def process_ends(self, pick: int, code: int, lull: int) -> None:
        machine, task_id = self.one_of(pick, "living")
        self.loop.within(partial(machine.end, task_id, code))
        self.pause(lull)

    def one_of(self, pick: int, kind: str) -> tuple[Machine, int]:
        found = [
            (node.machine, task_id)
            for node in self.nodes.values()
            for task_id in getattr(node.machine, kind)
        ]
        return found[pick % len(found)]

    def each(self, what: Callable[[Machine, int], None], of: list[dict[int, Any]]) -> None:
        for node, ids in zip(self.nodes.values(), of, strict=True):
            for task_id in list(ids):
                self.loop.within(partial(what, node.machine, task_id))

    @rule(name=names, fault=st.sampled_from(["refuses", "is_full"]), there=st.booleans())
    def machine_is_faulty(self, name: str, fault: str, *, there: bool) -> None:
        """Refuse starts, or have no room on the disk; or do so no more."""
        setattr(self.nodes[name].machine, fault, there)
        self.was_faulty |= there

    @rule(name=names, lull=lulls)
    def supervisor_dies(self, name: str, lull: int) -> None:
        self.loop.within(self.nodes[name].machine.lose_supervisor)
        self.pause(lull)

    # -- crashes ----------------------------------------------------------------------------

    @rule(up=some, down=some, lull=lulls)
    def host_crashes_or_comes_back(self, up: int, down: int, lull: int) -> None:
        if self.host.is_up:
            self._crash_host(up, down)
        else:
            self.host.start(self.run)
        self.pause(lull)

    def _crash_host(self, up: int, down: int) -> None:
        self.host.crash()
        for name in self.nodes:
            for pipe in self.pipes(name):
                pipe.host = None
                pipe.cut_up(up, noticed=False)
                pipe.cut_down(down, noticed=True)

    @rule(name=names, up=some, lull=lulls)
    def runner_crashes_or_comes_back(self, name: str, up: int, lull: int) -> None:
        if self.nodes[name].is_up:
            self._crash_runner(name, up)
        else:
            self.nodes[name].start()
        self.pause(lull)

    def _crash_runner(self, name: str, up: int) -> None:
        pipes = self.pipes(name)
        self.nodes[name].crash()
        for pipe in pipes:
            pipe.cut_up(up, noticed=True)
            pipe.cut_down(0, noticed=False)
        self.was_faulty = True

    @rule(name=names, up=some, keep=st.sampled_from([0.0, 0.5, 1.0]))
    def power_cut(self, name: str, up: int, keep: float) -> None:
        node = self.nodes[name]
        if node.is_up:
            self._crash_runner(name, up)
        node.machine.lose_power(keep)
        self.was_cut = True
        # What had ended and was told nobody yet may be told as lost.
        self.may_be_lost |= {key for key in node.machine.ends if key not in self.certain}

    # -- an old copy of the database --------------------------------------------------------

    @precondition(lambda self: self.host.is_up)
    @rule(again=st.integers(0, 2))
    def copy_database(self, again: int) -> None:
        """Make a copy, or now and then put back the one that there is."""
        if self.copy is not None and again == 0:
            self._restore()
            return
        self.copy = self.root / "copy.db"
        self.host.copy_to(self.copy)

    def _restore(self) -> None:
        assert self.copy is not None
        self._crash_host(0, 0)
        self.flow()
        self.host.restore(self.copy)
        self.was_restored = True
        rows = self.host.rows()
        journaled = {
            name: {key for key, one in node.known().items() if one.launch}
            for name, node in self.nodes.items()
        }
        told = set().union(*journaled.values())
        self.host.received = set(rows) | (self.host.received & told)
        for task_id, (status, _, node) in rows.items():
            its = journaled.get(node or "", set())
            if status not in FINALS and task_id not in its:
                # It may have run and be forgotten, or run on a node that comes back too late.
                self.may_start_again.add(task_id)
                self.may_be_lost.add(task_id)
        self.certain = {
            key: (status, code) for key, (status, code, _) in rows.items() if status in CERTAIN
        }

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

    def teardown(self) -> None:
        try:
            # A run that has failed already is to show that failure, not what follows from it.
            if sys.exc_info()[0] is None:
                self.come_to_rest()
                self.check_the_whole()
        finally:
            supervision._GENERATION = self.generation
            for node in self.nodes.values():
                if node.is_up:
                    node.crash()
            if self.host.is_up:
                self.host.crash()
            self.loop.end()
            shutil.rmtree(self.root)

    def come_to_rest(self) -> None:
        """Mend everything, and let all tasks end."""
        if not self.host.is_up:
            self.host.start(self.run)
        for name, node in self.nodes.items():
            self.reachable[name] = True
            node.machine.refuses = node.machine.is_full = False
            if not node.is_up:
                node.start()
        for _ in range(60):
            for name in self.nodes:
                self.notice(name)
            self.each(Machine.begin, [node.machine.waiting for node in self.nodes.values()])
            self.each(_end_well, [node.machine.living for node in self.nodes.values()])
            self.flow()
            self.loop.advance(6.0)
            self.flow()
            if self.is_at_rest():
                break
            # A word that is told at exchanges alone.
            for pipe in [pipe for name in self.nodes for pipe in self.pipes(name)]:
                pipe.cut_up(0, noticed=True)
                pipe.cut_down(0, noticed=True)

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
        for task_id, (status, code, _) in rows.items():
            self.check_truth(task_id, status, code)

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


def _chosen(ids: Any, pick: int) -> int:
    found = sorted(ids)
    return int(found[pick % len(found)])


def _end_well(machine: Machine, task_id: int) -> None:
    machine.end(task_id, 0)
