"""One campaign: a cluster under load, blow after blow, and the comparison at its end."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import threading
import time
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from faults.load import Load
from faults.plan import PRINTING, blows, works
from faults.proxy import Proxy
from faults.truth import Findings, Truth
from support.harness import Cluster
from support.processes import wait_until
from support.restarts import database

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from faults.plan import Blow
    from support.processes import Daemon

# Without a start for so long, the next blow falls all the same, in seconds.
_STALL = 2.0
# A silent node's tasks are believed lost after interval x factor.
_TIMING = {"heartbeat_interval": 0.4, "heartbeat_timeout_factor": 5.0}


@dataclass
class Report:
    """The figures of a campaign."""

    seed: int
    seconds: float = 0.0
    blows: Counter[str] = field(default_factory=Counter)
    #: SIGKILLs, by victim.
    kills: Counter[str] = field(default_factory=Counter)
    #: From the start of a killed host to its first answer, in seconds.
    recoveries: list[float] = field(default_factory=list)
    findings: Findings = field(default_factory=Findings)

    def lines(self) -> list[str]:
        """Return the figures as words."""
        found, back = self.findings, sorted(self.recoveries) or [0.0]
        return [
            f"seed {self.seed}: {sum(found.states.values())} tasks in {self.seconds:.0f} s",
            f"kills: {sum(self.kills.values())} ({_words(self.kills)})",
            f"faults: {_words(self.blows)}",
            f"states: {_words(found.states)}",
            f"reasons: {_words(found.reasons)}",
            f"double starts: {found.double_starts}; whole logs compared: {found.logs_compared}",
            f"host answers {back[len(back) // 2]:.2f} s after its start (at most {back[-1]:.2f})",
            *(f"WRONG: {each}" for each in found.wrong),
        ]


def _words(counter: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counter.most_common()) or "none"


class Campaign:
    """Everything that one run needs; `run` does it all and returns its report.

    Args:
        root: an empty folder for the cluster.
        seed: from which faults and tasks follow.
        kills: how many processes' deaths are planned, as blows.
        tasks: how many tasks are submitted.
        tell: takes a line of progress now and then.
    """

    def __init__(
        self, root: Path, *, seed: int, kills: int, tasks: int, tell: Callable[[str], object]
    ) -> None:
        names = ["node1", "node2"]
        self._proxies = {name: Proxy() for name in names}
        for proxy in self._proxies.values():
            proxy.start()
        self._cluster = Cluster(
            root / "cluster",
            settings={"timing": _TIMING},
            ways={name: proxy.port for name, proxy in self._proxies.items()},
        )
        for proxy in self._proxies.values():
            proxy.target = self._cluster.port
        self._truth = Truth(root / "truth")
        self._works = works(seed, tasks=tasks, nodes=names)
        self._plan = blows(seed, kills=kills, tasks=tasks, nodes=names)
        self._rng = random.Random(f"campaign {seed}")
        self._tell = tell
        self._report = Report(seed)
        self._timers: list[threading.Timer] = []

    def run(self) -> Report:
        """Go through the whole plan."""
        begin = time.monotonic()
        try:
            self._cluster.start()
            load = Load(self._cluster, self._truth, self._works)
            load.start()
            try:
                for number, blow in enumerate(self._plan):
                    self._await(blow)
                    self._strike(blow)
                    self._tell(f"blow {number + 1} of {len(self._plan)}, {load.progress()}")
                self._calm()
                load.join()
            finally:
                self._calm()
                load.abandon()
            self._compare()
        finally:
            try:
                self._cluster.stop()
            finally:
                for proxy in self._proxies.values():
                    proxy.stop()
        self._check_database()
        self._report.seconds = time.monotonic() - begin
        return self._report

    # The blows.

    def _await(self, blow: Blow) -> None:
        """Wait until so many tasks have started, or nothing goes on any more."""
        seen, since = -1, time.monotonic()
        while (started := self._truth.started()) < blow.after:
            if started != seen:
                seen, since = started, time.monotonic()
            elif time.monotonic() - since > _STALL:
                return
            time.sleep(0.005)

    def _strike(self, blow: Blow) -> None:
        self._report.blows[blow.kind] += 1
        if blow.kind == "kill":
            self._kill(blow)
        elif blow.kind == "stop":
            self._stop(blow)
        else:
            self._disturb(self._proxies[blow.victims[0]], blow)

    def _kill(self, blow: Blow) -> None:
        daemons = [self._daemon(name) for name in blow.victims]
        for name, daemon in zip(blow.victims, daemons, strict=True):
            daemon.check_alive()
            os.kill(daemon.pid, signal.SIGKILL)
            self._report.kills[name] += 1
        for daemon in daemons:
            assert daemon.process is not None
            assert daemon.process.wait(30) == -signal.SIGKILL
        time.sleep(blow.seconds)
        for name, daemon in zip(blow.victims, daemons, strict=True):
            daemon.start()
            if name == "host" and self._rng.random() < 0.5:
                # Every other time the next blow may fall while the host still comes up.
                self._measure_recovery()

    def _measure_recovery(self) -> None:
        begin = time.monotonic()
        wait_until(self._cluster.is_healthy, timeout=60, what="the host's /healthz")
        self._report.recoveries.append(time.monotonic() - begin)

    def _stop(self, blow: Blow) -> None:
        daemon = self._daemon(blow.victims[0])
        daemon.check_alive()
        os.kill(daemon.pid, signal.SIGSTOP)
        time.sleep(blow.seconds)
        os.kill(daemon.pid, signal.SIGCONT)

    def _disturb(self, proxy: Proxy, blow: Blow) -> None:
        if blow.kind == "cut":
            proxy.cut()
        elif blow.kind == "half-close":
            proxy.half_close()
        elif blow.kind == "partition":
            proxy.part()
            self._later(blow.seconds, proxy.join)
        elif blow.kind == "delay":
            proxy.delaying = True
            self._later(blow.seconds, lambda: setattr(proxy, "delaying", False))
        else:
            proxy.repeating = True
            self._later(blow.seconds, lambda: setattr(proxy, "repeating", False))

    def _later(self, seconds: float, do: Callable[[], None]) -> None:
        timer = threading.Timer(seconds, do)
        timer.daemon = True
        timer.start()
        self._timers.append(timer)

    def _calm(self) -> None:
        """Let everything work again, and wait until all are linked."""
        for timer in self._timers:
            timer.cancel()
            timer.join()
        self._timers.clear()
        for proxy in self._proxies.values():
            proxy.delaying = proxy.repeating = False
            proxy.join()
        wait_until(self._cluster.is_healthy, timeout=60, what="the host's /healthz")
        for name in self._cluster.nodes:
            self._cluster.wait_online(name)

    def _daemon(self, name: str) -> Daemon:
        return self._cluster.host if name == "host" else self._cluster.runners[name]

    # The comparison.

    def _compare(self) -> None:
        # What has not ended by then, or is believed lost still, is judged below.
        with suppress(AssertionError):
            wait_until(self._has_settled, timeout=60, interval=0.2)
        found = self._report.findings
        shown: defaultdict[str, list[Any]] = defaultdict(list)
        for task in self._cluster.all_tasks():
            shown[task["name"]].append(task)
        for work in self._works:
            mine = shown.pop(str(work.index), [])
            self._truth.judge(found, work, mine)
            if work.job in PRINTING and mine and mine[0]["status"] == "completed":
                found.logs_compared += 1
                wanted = "".join(f"{number}\n" for number in range(1, int(work.amount) + 1))
                if self._cluster.text(mine[0]["task_id"]) != wanted:
                    found.wrong.append(f"{work}: its log is not what it wrote")
        found.wrong += [f"nobody submitted {name!r}" for name in shown]
        for name in self._cluster.nodes:
            node = self._cluster.node(name)
            if node["cores_in_use"] or node["available_cores"] != node["total_cores"]:
                found.wrong.append(f"{name} has cores that nobody uses: {node}")
            wait_until(partial(self._has_forgotten_all, name), what=f"{name} forgets all tasks")

    def _has_settled(self) -> bool:
        lost = self._cluster.get("/api/tasks?state=lost&limit=1")["tasks"]
        return not lost and not self._cluster.unfinished()

    def _has_forgotten_all(self, name: str) -> bool:
        journal = self._cluster.state_dir(name) / "runner" / name / "journal.ndjson"
        return journal.stat().st_size == 0

    def _check_database(self) -> None:
        with sqlite3.connect(database(self._cluster)) as connection:
            (word,) = connection.execute("PRAGMA integrity_check").fetchone()
        connection.close()
        if word != "ok":
            self._report.findings.wrong.append(f"the database: {word}")
