"""What may happen to host, runners, network and machines, as one state machine.

Hypothesis picks what happens next: submissions, kills, starts and ends of processes, frames that
arrive, links that break, crashes of host and runners at any turn of the event loop, power cuts,
full disks, partitions, and databases put back from a copy. After each step `Whole` looks at what is
on disk; at the end everything is delivered, and every task must be told as it truly went.
"""

from __future__ import annotations

import shutil
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import hypothesis.strategies as st
from hypothesis.stateful import initialize, precondition, rule

from hakuriver.runner import supervision
from support.modelled.ground import GIB, NODES, TARGETS
from support.modelled.node import Machine
from support.modelled.whole import ALL, CERTAIN, FINALS, Whole

if TYPE_CHECKING:
    from support.modelled.wires import Pipe

names = st.sampled_from(sorted(NODES))
some = st.integers(0, 3)
picks = st.integers(0, 7)
#: How much is done before the next step: so many turns of the loop, or all there is to do.
lulls = st.sampled_from([0, 1, 2, 3, 4, 6, 9, ALL, ALL, ALL])


class Protocol(Whole):
    """The whole, from an empty database to the last word about every task."""

    @initialize()
    def begin(self) -> None:
        self.host.start(self.run)
        for node in self.nodes.values():
            node.start()
        self.flow()

    # -- what clients do --------------------------------------------------------------------

    @precondition(lambda self: self.host.is_up)
    @rule(
        where=st.sampled_from(TARGETS),
        cores=st.integers(0, 2),
        memory=st.sampled_from([None, None, GIB // 2, GIB]),
        joins=st.booleans(),
        lull=lulls,
    )
    def submit(
        self, where: list[str] | None, cores: int, memory: int | None, lull: int, *, joins: bool
    ) -> None:
        self.host.submit(where, joins=joins, required_cores=cores, required_memory_bytes=memory)
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


def _chosen(ids: Any, pick: int) -> int:
    found = sorted(ids)
    return int(found[pick % len(found)])


def _end_well(machine: Machine, task_id: int) -> None:
    machine.end(task_id, 0)
