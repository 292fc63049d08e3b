"""Nodes: what a machine has, what it can enforce, and how busy it is."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta


class NodeStatus(StrEnum):
    """Whether a node's runner is linked to the host right now."""

    ONLINE = "online"
    OFFLINE = "offline"


Cpu = Annotated[int, Meta(ge=0, le=1 << 16)]
Bytes = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
NumaNumber = Annotated[str, Meta(pattern=r"^(0|[1-9][0-9]{0,3})$")]


class NumaNode(msgspec.Struct, frozen=True):
    """One memory domain: its CPU numbers and its memory, as the kernel counts them."""

    cores: tuple[Cpu, ...]
    memory_bytes: Bytes


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What a node can enforce: None where it can, else the reason why it cannot.

    The first three are not asked for by tasks: where a node cannot hold them, everybody should
    know.
    """

    unprivileged_user: str | None = None
    cpu_quota: str | None = None
    process_limit: str | None = None
    memory_limit: str | None = None
    time_limit: str | None = None
    numa_binding: str | None = None
    private_network: str | None = None
    private_pid: str | None = None


class NodeInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a runner tells of its machine when it links up.

    `cpus` are the CPU numbers this runner may give out (`runner.cpus`), `numa_topology` maps the
    kernel's NUMA node number, as text, to the part of it within those CPUs; empty means unknown.
    """

    version: str
    launcher: str
    cpus: tuple[Cpu, ...]
    memory_bytes: Bytes
    numa_topology: dict[NumaNumber, NumaNode] = {}
    capabilities: Capabilities = Capabilities()


class NumaUse(msgspec.Struct, frozen=True):
    """How busy one NUMA node is: CPU in per cent of its cores, memory in bytes."""

    cpu_percent: float
    memory_used_bytes: int


class Metrics(msgspec.Struct, frozen=True, kw_only=True):
    """A node's measured use: shown, never scheduled on."""

    cpu_percent: float = 0.0
    memory_used_bytes: int = 0
    memory_total_bytes: int = 0
    load_average: float = 0.0
    numa: dict[str, NumaUse] = {}
