"""`Sweep`: a command or a function over all combinations of parameters, with a journal."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self, Unpack

from hakuriver.errors import Conflict, InvalidRequest, NotFound
from hakuriver.sweep.cluster.options import ClusterOptions
from hakuriver.sweep.journal import (
    Header,
    Journal,
    Marks,
    all_journals,
    find_journal,
    journals_folder,
    new_id,
    read_attempts,
    read_ends,
    read_header,
    read_marks,
)
from hakuriver.sweep.limits import LimitOptions, make_limits
from hakuriver.sweep.local.run import LocalRun
from hakuriver.sweep.plan import Plan
from hakuriver.sweep.pruning import prune_journals
from hakuriver.sweep.records import Ended
from hakuriver.sweep.results import Results, record_of
from hakuriver.sweep.targets import find_program
from hakuriver.sweep.trees import marked

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping, Sequence

    from hakuriver.sweep.cluster.run import ClusterRun
    from hakuriver.sweep.plan import Combination
    from hakuriver.sweep.records import Event
    from hakuriver.sweep.targets import Program


class Sweep:
    """A program, module or function over all combinations of the spans in its arguments.

    ``Sweep(["python", "train.py", "--lr=span:[0.1,0.2]"], jobs=2).run()`` runs them and returns
    their `Results`. Nothing is printed. For what happens meanwhile, iterate over
    `events` or give `run` a callback; `cancel` ends it from elsewhere. All that has ended is in
    the journal, so that `resume` runs the rest later, in another process.

    Args:
        command: the program, script, module or ``module:function``, and its arguments.
        side_by_side: go through all spans at once instead of through their product.
        name: a name to find the sweep by.
        journal: where to keep its journal, instead of among the user's others.
        cluster: where and how to run it as tasks of a cluster; without it, on this machine.
        limits: how many run at once and when to give up, as `Limits` tells.

    Raises:
        SpanError: a span is malformed.
        InvalidRequest: there is no such program, or spans that do not go together.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        side_by_side: bool = False,
        name: str = "",
        journal: str | os.PathLike[str] | None = None,
        cluster: ClusterOptions | None = None,
        **limits: Unpack[LimitOptions],
    ) -> None:
        if not command:
            raise InvalidRequest("command", "is empty")
        self.plan = Plan.of(command[1:], side_by_side=side_by_side)
        self.program: Program = find_program(command[0], here=cluster is None)
        self.limits = make_limits(limits)
        self.cluster = cluster
        sweep_id = new_id()
        self.header = Header(
            sweep_id=sweep_id,
            name=name,
            created=time.time(),
            words=list(command),
            side_by_side=side_by_side,
            total=len(self.plan),
            digest=self.plan.digest,
            names=list(self.plan.names),
            folder=str(Path.cwd()),
            cluster={} if cluster is None else cluster.plain(),
        )
        self.path = Path(journal) if journal else journals_folder() / f"{sweep_id}.jsonl"
        self.resumed = False
        #: Whether it ended before all had run, by `cancel` or by too many failures.
        self.stopped = False
        #: Processes of an earlier run, which was killed, that have been ended.
        self.leftovers = 0
        self._marks = Marks()
        self._run: LocalRun | ClusterRun | None = None

    def __repr__(self) -> str:
        return f"<Sweep {self.header.shown} of {len(self)} combinations>"

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, index: int) -> Combination:
        return self.plan[index]

    @classmethod
    def resume(
        cls,
        wanted: str | None = None,
        *,
        command: Sequence[str] = (),
        side_by_side: bool = False,
        journal: str | os.PathLike[str] | None = None,
        cluster: ClusterOptions | None = None,
        env: Mapping[str, str] | None = None,
        config: str | None = None,
        **limits: Unpack[LimitOptions],
    ) -> Self:
        """Return an earlier sweep, to run what is missing or has failed, with the same numbers.

        `wanted` is its id, its name or its journal's path. Without it, it is the newest one of the
        `command`, or the newest of all. A sweep on a cluster has the options it had, with `env` for
        the values of its variables, unless `cluster` gives others; tasks that were submitted are
        taken up, not started again.

        Raises:
            NotFound: there is no such sweep.
            Conflict: the command is another one, or has other combinations by now.
        """
        path, header = _find(wanted, command, side_by_side=side_by_side, journal=journal)
        if str(Path.cwd()) != header.folder:
            raise Conflict(f"the sweep {header.shown} was run in {header.folder}: go there first")
        zipped = header.side_by_side
        if cluster is None and header.cluster:
            cluster = ClusterOptions.from_plain(header.cluster, env or {}, config)
        if cluster is not None and not header.cluster:
            raise Conflict(f"the sweep {header.shown} is one of this machine: leave --on away")
        sweep = cls(
            header.words,
            side_by_side=zipped,
            name=header.name,
            journal=path,
            cluster=cluster,
            **limits,
        )
        if sweep.plan.digest != header.digest:
            raise Conflict(f"the sweep {header.shown} has other values by now: a file has changed")
        if command and (list(command) != header.words or (side_by_side and not zipped)):
            raise Conflict(
                f"the sweep {header.shown} is of another command; leave the command away, or "
                "leave --resume away for a new sweep"
            )
        sweep.header = header
        sweep.resumed = True
        sweep._marks = read_marks(path)
        return sweep

    @property
    def is_among_others(self) -> bool:
        """Whether its journal lies where an id or a name finds it."""
        return self.path.parent == journals_folder()

    @property
    def done(self) -> int:
        """How many combinations have ended well."""
        return self._marks.count(Marks.OK)

    @property
    def failed(self) -> int:
        """How many have failed the last time they ran."""
        return self._marks.count(Marks.FAILED)

    def missing(self) -> Iterator[int]:
        """Give the numbers, from 0, of those that are still to run or have failed."""
        marks = self._marks
        return (index for index in range(len(self)) if marks[index] != Marks.OK)

    def events(self) -> Generator[Event]:
        """Run all that is missing and tell what happens; closing this ends what runs."""
        with self._journal() as journal, self._runner(journal) as run:
            self._run = run
            if self.stopped:
                run.stop()
            for event in run.events(self.missing()):
                if isinstance(event, Ended) and not event.again:
                    journal.add(event)
                    self._marks[event.index] = Marks.OK if event.ok else Marks.FAILED
                yield event
            self.stopped = run.stopped

    def submitted(self) -> set[int]:
        """Return the numbers, from 0, of those that are tasks of a cluster and have no known end.

        As the journal tells it: when a run is over, these are the ones that go on without it.
        """
        if self.cluster is None or not self.path.exists():
            return set()
        attempts = read_attempts(self.path).open
        return {index for index, attempt in attempts.items() if attempt.task_id}

    def run(self, on_event: Callable[[Event], None] | None = None) -> Results:
        """Run all that is missing and return the results of all that have ended.

        `on_event` is called with each event, on this thread. An interrupt ends what runs.
        """
        for event in self.events():
            if on_event is not None:
                on_event(event)
        return self.results()

    def cancel(self) -> None:
        """Start no more, and end what runs; may be called from any thread or signal handler."""
        self.stopped = True
        if self._run is not None:
            self._run.stop()

    def results(self) -> Results:
        """Return a record for each combination that has ended, by now."""
        if not self.path.exists():
            return Results([])
        names = self.plan.names
        return Results(
            [record_of(names, self.plan[end.index].values, end) for end in read_ends(self.path)]
        )

    def _journal(self) -> Journal:
        self._make_folder()
        if self.resumed:
            journal = Journal.open(self.path)
            # Now nobody else writes it.
            self._marks = read_marks(self.path)
            return journal
        journal = Journal.create(self.path, self.header)
        self.resumed = True
        if self.is_among_others:
            prune_journals(self.path.parent)
        return journal

    def _runner(self, journal: Journal) -> LocalRun | ClusterRun:
        sweep_id = self.header.sweep_id
        if self.cluster is None:
            self.leftovers = _end_leftovers(sweep_id)
            return LocalRun(self.plan, self.program, self.limits, sweep_id)
        # Imported here: a sweep on this machine needs no HTTP.
        from hakuriver.sweep.cluster.run import ClusterRun  # noqa: PLC0415

        return ClusterRun(
            self.plan,
            self.program,
            self.limits,
            sweep_id,
            options=self.cluster,
            journal=journal,
            attempts=read_attempts(self.path),
        )

    def _make_folder(self) -> None:
        folder = self.limits.out_dir
        if folder is None:
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidRequest("out_dir", f"{folder} cannot be made: {error.strerror}") from None


def _find(
    wanted: str | None,
    command: Sequence[str],
    *,
    side_by_side: bool,
    journal: str | os.PathLike[str] | None,
) -> tuple[Path, Header]:
    if journal is not None:
        return Path(journal), read_header(Path(journal))
    if wanted is not None or not command:
        return find_journal(wanted)
    here = str(Path.cwd())
    for path, header in all_journals():
        same = header.words == list(command) and header.side_by_side == side_by_side
        if same and header.folder == here:
            return path, header
    if len(command) == 1:
        word = command[0]
        raise NotFound(f"no sweep has the id or name {word!r}, and none is of such a command here")
    raise NotFound("there is no sweep of this command here to go on with")


def _end_leftovers(sweep_id: str) -> int:
    """End what an earlier run, which was killed, has left running; return how many."""
    found = marked(sweep_id)
    for pid in found:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    return len(found)
