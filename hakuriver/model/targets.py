"""Targets: where a task is to run, written ``node`` or ``node:numa``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from hakuriver.errors import InvalidRequest

NAME_RULE = "letters, digits, '.', '_' and '-', at most 253 of them, not dots alone"

MAX_NODE_NAME = 253

_NAME = re.compile(r"(?!\.+\Z)[A-Za-z0-9._-]{1,253}\Z")
# The kernel's own limit is far lower (MAX_NUMNODES is 1024); four digits keep numbers small.
_NUMA = re.compile(r"(?:0|[1-9][0-9]{0,3})\Z")


def check_node_name(name: str) -> str:
    """Return `name` if a node may bear it, else raise `InvalidRequest`."""
    if not _NAME.match(name):
        raise InvalidRequest("node", f"{name!r} is no node name (allowed: {NAME_RULE})")
    return name


@dataclass(frozen=True, slots=True, order=True)
class Target:
    """A node and, if the task is to be bound, one of its NUMA nodes."""

    node: str
    numa: int | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``node`` or ``node:numa``; raise `InvalidRequest` naming what is wrong."""
        node, colon, numa = text.partition(":")
        if not _NAME.match(node):
            raise InvalidRequest(
                "target", f"{text!r}: {node!r} is no node name (allowed: {NAME_RULE})"
            )
        if not colon:
            return cls(node)
        if not _NUMA.match(numa):
            raise InvalidRequest(
                "target", f"{text!r}: {numa!r} is no NUMA node (write for example {node}:0)"
            )
        return cls(node, int(numa))

    def __str__(self) -> str:
        return self.node if self.numa is None else f"{self.node}:{self.numa}"
