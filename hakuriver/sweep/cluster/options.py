"""How a sweep is run on a cluster: its options, and the command of a task."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from hakuriver.errors import Conflict
from hakuriver.sweep.targets import Kind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hakuriver.sweep.targets import Program


@dataclass(frozen=True, slots=True)
class ClusterOptions:
    """Where and how tasks run. Memory is in bytes; `env` has secrets, so no repr.

    Each of `on` is ``node`` or ``node:numa``. Scripts, modules and functions run by `python` on the
    node, which for a function must have this package.
    """

    on: tuple[str, ...]
    cores: int = 1
    memory: int | None = None
    workdir: str | None = None
    env: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    private_network: bool = False
    private_pid: bool = False
    python: str = sys.executable
    config: str | None = None

    def plain(self) -> dict[str, Any]:
        """Return what a journal keeps of it: of variables their names alone."""
        kept = {
            name: getattr(self, name)
            for name in ("cores", "memory", "workdir", "private_network", "private_pid", "python")
        }
        return {"on": list(self.on), **kept, "env": sorted(self.env)}

    @classmethod
    def from_plain(
        cls, kept: Mapping[str, Any], env: Mapping[str, str], config: str | None
    ) -> Self:
        """Return what a journal has kept, with the values of its variables.

        Raises:
            Conflict: the variables are not those that the sweep had.
        """
        if sorted(env) != kept["env"]:
            names = ", ".join(kept["env"]) or "none"
            raise Conflict(f"give the variables that the sweep had again with --env: {names}")
        options = {name: value for name, value in kept.items() if name not in ("on", "env")}
        return cls(on=tuple(kept["on"]), env=env, config=config, **options)


def command_of(program: Program, python: str) -> tuple[str, ...]:
    """Return the words before a combination's own: a program is looked up on the node."""
    match program.kind:
        case Kind.PROGRAM:
            return (program.name,)
        case Kind.SCRIPT:
            return (python, program.name)
        case Kind.MODULE:
            return (python, "-m", program.name)
        case Kind.FUNCTION:
            return (python, "-P", "-m", "hakuriver.sweep.worker", "--once", program.name)


def variables_of(sweep_id: str, index: int, attempt: int) -> dict[str, str]:
    """Return what tells a run which it is."""
    return {
        "HAKURUN_SWEEP": sweep_id,
        "HAKURUN_INDEX": str(index + 1),
        "HAKURUN_ATTEMPT": str(attempt),
    }
