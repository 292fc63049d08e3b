"""Nodes of several shapes, for tests of who gets what of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hakuriver.host.rooms import Part

if TYPE_CHECKING:
    from collections.abc import Iterable

Node = tuple[Part, dict[int, Part]]
OFFLINE = "is offline"


def part(cpus: Iterable[int], memory: int) -> Part:
    """Return a node, or one of its NUMA nodes."""
    return Part(frozenset(cpus), memory)


#: The parts of "b" have more memory together than it gives out, "c" tells of no parts.
NODES: dict[str, Node] = {
    "a": (part(range(4), 8), {0: part([0, 1], 4), 1: part([2, 3], 4)}),
    "b": (part(range(10, 16), 10), {0: part([10, 11], 4), 2: part([12, 13, 14, 15], 8)}),
    "c": (part([0, 1, 2], 6), {}),
}
