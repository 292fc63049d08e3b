"""What a task needs a node to enforce: what a node cannot hold is refused, never ignored."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hakuriver.model.nodes import Capabilities
    from hakuriver.model.tasks import TaskSpec

#: Each field of `Capabilities`, and what it is called in a sentence.
WORDS = {
    "unprivileged_user": "an unprivileged user of its own for tasks",
    "cpu_quota": "a CPU quota",
    "process_limit": "a limit of processes",
    "memory_limit": "a memory limit",
    "time_limit": "a time limit",
    "numa_binding": "a NUMA binding",
    "private_network": "a private network",
    "private_pid": "private process ids",
}


def needs_of(spec: TaskSpec, numa_node: int | None) -> frozenset[str]:
    """Return the capabilities, by field name, without which a task must not run."""
    asked = {
        "memory_limit": spec.required_memory_bytes is not None,
        "time_limit": spec.time_limit_seconds is not None,
        "numa_binding": numa_node is not None,
        "private_network": spec.use_private_network,
        "private_pid": spec.use_private_pid,
    }
    return frozenset(name for name, wanted in asked.items() if wanted)


def lacks_of(able: Capabilities) -> dict[str, str]:
    """Return what a node cannot enforce, by field name, each with the reason."""
    reasons = {name: getattr(able, name) for name in WORDS}
    return {name: reason for name, reason in reasons.items() if reason is not None}


def unmet(needs: frozenset[str], able: Capabilities) -> str | None:
    """Return why a node cannot give what is needed, None if it can."""
    lacks = lacks_of(able)
    return next((f"{WORDS[name]}: {lacks[name]}" for name in sorted(needs & lacks.keys())), None)
