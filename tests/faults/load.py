"""The work of a campaign: it is submitted, killed and followed by the real client, blows or not."""

from __future__ import annotations

import threading
import time
import uuid
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from faults.plan import PRINTING
from hakuriver import Client
from hakuriver.client.backoff import PASSING
from hakuriver.client.building import command_request
from hakuriver.errors import Conflict

if TYPE_CHECKING:
    from collections.abc import Callable

    from faults.plan import Work
    from faults.truth import Truth
    from hakuriver.model.submission import SubmitRequest
    from support.harness import Cluster

_T = TypeVar("_T")

# So many are submitted in one request; every other request is one alone.
_MANY = 8
# So many tasks may be ahead of the last that has started, and so many are followed at a time.
_AHEAD = 120
_FOLLOWERS = 4


class Load(threading.Thread):
    """Submits all works in their order, in a thread of its own."""

    def __init__(self, cluster: Cluster, truth: Truth, works: list[Work]) -> None:
        super().__init__(name="load", daemon=True)
        self._cluster = cluster
        self._truth = truth
        self._works = works
        self._submitted = 0
        self._leaving = False
        self._fault: BaseException | None = None
        self._followers: list[threading.Thread] = []
        self._room = threading.Semaphore(_FOLLOWERS)

    def progress(self) -> str:
        """Return how far it is."""
        return f"{self._submitted} submitted, {self._truth.started()} started"

    def join(self, timeout: float | None = 300) -> None:
        """Wait until all is submitted, and what is followed has ended; fail if that went wrong."""
        super().join(timeout)
        for follower in self._followers:
            follower.join(60)
        if self._fault is not None:
            raise self._fault
        assert not self.is_alive(), f"not all could be submitted: {self.progress()}"

    def abandon(self) -> None:
        """Submit nothing more."""
        self._leaving = True
        super().join(30)

    def run(self) -> None:
        """Do it."""
        url = f"http://127.0.0.1:{self._cluster.port}"
        try:
            with Client(url, token=self._cluster.token) as client:
                self._submit_all(client)
                for follower in self._followers:
                    follower.join(120)
        except BaseException as error:  # noqa: BLE001 - told by `join`
            self._fault = error

    def _submit_all(self, client: Client) -> None:
        alone = True
        while self._submitted < len(self._works) and not self._leaving:
            while self._submitted - self._truth.started() > _AHEAD and not self._leaving:
                time.sleep(0.01)
            some = self._works[self._submitted : self._submitted + (1 if alone else _MANY)]
            alone = not alone
            self._submit(client, some)
            self._submitted += len(some)

    def _submit(self, client: Client, works: list[Work]) -> None:
        """Submit these; what is refused, since its node is away, is submitted again."""
        while works and not self._leaving:
            requests = [self._request(work) for work in works]
            batches = self._persist(partial(client.submit_many, requests))
            refused: list[Work] = []
            for work, batch in zip(works, batches, strict=True):
                if not batch:
                    refused.append(work)
                elif work.job == "endless":
                    self._end(client, batch[0].task_id)
                elif work.job in PRINTING and work.index % 5 == 0:
                    self._follow(client, batch[0].task_id, int(work.amount))
            works = refused
            if refused:
                time.sleep(0.05)

    def _request(self, work: Work) -> SubmitRequest:
        return command_request(
            self._truth.command(work),
            target=work.target,
            cores=work.cores,
            name=str(work.index),
            idempotency_key=uuid.uuid4().hex,
        )

    def _persist(self, ask: Callable[[], _T]) -> _T:
        """Ask again while there is no host; the key in a submission makes that harmless."""
        while True:
            try:
                return ask()
            except PASSING:
                if self._leaving:
                    raise
                time.sleep(0.05)

    def _end(self, client: Client, task_id: str) -> None:
        """Kill a task that would not end: at once, or when it runs."""

        def kill() -> None:
            # Asked twice over a broken link, the second time it has ended already.
            with suppress(Conflict):
                self._persist(partial(client.kill, task_id))

        timer = threading.Timer(int(task_id[-1]) / 5, self._kept(kill))
        timer.daemon = True
        timer.start()
        self._followers.append(timer)

    def _follow(self, client: Client, task_id: str, lines: int) -> None:
        """Read a log while it is written; nothing may be lost or doubled, whatever happens."""

        def follow() -> None:
            with self._room:
                task = self._persist(partial(client.task, task_id))
                seen = list(task.logs(follow=True))
                if self._persist(task.status).status == "completed":
                    assert seen == [str(number) for number in range(1, lines + 1)], task_id

        thread = threading.Thread(target=self._kept(follow), daemon=True)
        thread.start()
        self._followers.append(thread)

    def _kept(self, do: Callable[[], None]) -> Callable[[], None]:
        def kept() -> None:
            try:
                do()
            except BaseException as error:  # noqa: BLE001 - told by `join`
                self._fault = self._fault or error

        return kept
