"""The command lines that make a task's unit. Pure."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hakuriver.runner.launchers.systemd import inside, overseer
from hakuriver.runner.launchers.systemd.manager import Mode
from hakuriver.runner.launchers.systemd.properties import (
    SLICE,
    Kind,
    limits,
    of_service,
    plain,
    record_line_limits,
    unit_name,
)

if TYPE_CHECKING:
    from pathlib import Path

    from hakuriver.runner.launchers.base import StartOrder
    from hakuriver.runner.launchers.systemd.manager import Manager

#: systemd gives process ids of their own from this version on.
OWN_PIDS_SINCE = 257

# Below that: `--kill-child` ends the task with its namespace, `--mount-proc` shows it its own.
_UNSHARE = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child", "--")


@dataclass(frozen=True, slots=True)
class Maker:
    """Makes command lines for one manager; `python` runs the first program of each unit.

    `tasks_max` bounds the processes and threads of a task.
    """

    manager: Manager
    kind: Kind
    tasks_max: int
    python: str = sys.executable

    def command(self, order: StartOrder, order_file: Path, record: Path) -> list[str]:
        """Return the words that start a task's unit.

        Args:
            order: the task.
            order_file: where the unit's first program finds its order.
            record: where the exit record is to be written.
        """
        return self.unit(order, unit_name(order.id, self.kind), record, self.first(order_file))

    def first(self, order_file: Path) -> tuple[str, ...]:
        """Return the unit's first program."""
        return (self.python, "-I", "-S", inside.__file__, str(order_file))

    def unit(
        self,
        order: StartOrder,
        name: str,
        record: Path,
        program: tuple[str, ...],
        *options: str,
    ) -> list[str]:
        """Return the words that start `program` in a unit with the limits of `order`."""
        if self.kind == "scope":
            properties = limits(order, tasks_max=self.tasks_max)
            switch: tuple[str, ...] = ("--scope",)
            words = [*self._overseer(order, record), *self._as_user(program)]
        else:
            unshared = self.unshares(order)
            properties = of_service(
                order,
                tasks_max=self.tasks_max,
                user=None if unshared or self.manager.mode is Mode.USER else self._user,
                own_pids=order.private_pid and not unshared,
                record=record,
            )
            switch = ("--service-type=exec",)
            command = (*_UNSHARE, *self._as_user(program)) if unshared else program
            words = [plain(word) for word in command]
        return [
            *(*self.manager.run, "--quiet", *switch, *options),
            *(f"--unit={name}", f"--slice={SLICE}", f"--description=HakuRiver task {order.id}"),
            *(f"--property={line}" for line in properties),
            *("--", *words),
        ]

    def unshares(self, order: StartOrder) -> bool:
        """Whether the task gets its own process ids by ``unshare``, which needs root."""
        return order.private_pid and self.manager.version < OWN_PIDS_SINCE

    @property
    def _user(self) -> str:
        return self.manager.account.name

    def _as_user(self, program: tuple[str, ...]) -> tuple[str, ...]:
        """Return the words by which root becomes the task's user."""
        account = self.manager.account
        if self.manager.mode is Mode.USER:
            return ("setpriv", "--no-new-privs", "--", *program)
        ids = (f"--reuid={account.uid}", f"--regid={account.gid}", "--init-groups")
        return ("setpriv", *ids, "--no-new-privs", "--", *program)

    def _overseer(self, order: StartOrder, record: Path) -> tuple[str, ...]:
        """Return the words before a scope's program: what sees to its end and notes it."""
        script = (self.python, "-I", "-S", overseer.__file__, str(record))
        return (*script, str(order.grace), record_line_limits(order), "--")
