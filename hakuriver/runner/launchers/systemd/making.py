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
    description,
    limits,
    of_service,
    record_line_limits,
    stop_post_command,
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
    """Makes command lines for one manager.

    `tasks_max` bounds the processes and threads of a task, `script` is where `RECORD_SCRIPT` lies,
    and `python` runs the first program of each unit.
    """

    manager: Manager
    kind: Kind
    tasks_max: int
    script: Path
    python: str = sys.executable

    def command(self, order: StartOrder, order_file: Path, record: Path) -> list[str]:
        """Return the words that start a task's unit.

        Args:
            order: the task.
            order_file: where the unit's first program finds its order.
            record: where the exit record is to be written.
        """
        program = (self.python, "-I", "-S", inside.__file__, str(order_file))
        name = unit_name(order.id, self.kind)
        if self.kind == "scope":
            return self._unit(
                *("--scope", f"--unit={name}"),
                properties=limits(order, tasks_max=self.tasks_max),
                words=(*self._overseer(order, record), *self._as_user(program)),
            )
        return self.service(order, record, program, f"--unit={name}")

    def service(
        self, order: StartOrder, record: Path, program: tuple[str, ...], *options: str
    ) -> list[str]:
        """Return the words that start `program` as a service with the limits of `order`."""
        unshared = order.private_pid and self.manager.version < OWN_PIDS_SINCE
        return self._unit(
            *("--service-type=exec", *options),
            properties=of_service(
                order,
                tasks_max=self.tasks_max,
                own_pids=order.private_pid and not unshared,
                limited=self.manager.mode is Mode.USER,
                stop_post=stop_post_command(order, self.script, record),
            ),
            words=(*(_UNSHARE if unshared else ()), *self._as_user(program)),
        )

    def _unit(self, *options: str, properties: list[str], words: tuple[str, ...]) -> list[str]:
        return [
            *(*self.manager.run, "--quiet", f"--slice={SLICE}"),
            f"--description={description(self.script.parent)}",
            *options,
            *(f"--property={line}" for line in properties),
            *("--", *words),
        ]

    def _as_user(self, program: tuple[str, ...]) -> tuple[str, ...]:
        """Return the words by which root becomes the task's user, for good."""
        account = self.manager.account
        if self.manager.mode is Mode.USER:
            # Some distributions hand their users' managers a capability or two.
            none = ("--inh-caps=-all", "--ambient-caps=-all")
            return ("setpriv", *none, "--no-new-privs", "--", *program)
        ids = (
            f"--reuid={account.uid}",
            f"--regid={account.gid}",
            "--init-groups",
            "--bounding-set=-all",
        )
        return ("setpriv", *ids, "--no-new-privs", "--", *program)

    def _overseer(self, order: StartOrder, record: Path) -> tuple[str, ...]:
        """Return the words before a scope's program: what sees to its end and notes it."""
        script = (self.python, "-I", "-S", overseer.__file__, str(record))
        return (*script, str(order.grace), record_line_limits(order), "--")
