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
NumaNumber = Annotated[str, Meta(pattern=r"^(0|[1-9][0-9]{0,3})\Z")]
# A runner is little trusted: what is no number (NaN, infinity) or absurd breaks the link.
Figure = Annotated[float, Meta(ge=0, le=1e12)]
# A reason may hold what a program printed.
Words = Annotated[str, Meta(max_length=1 << 16)]
Word = Annotated[str, Meta(max_length=200)]
Cpus = Annotated[tuple[Cpu, ...], Meta(max_length=1 << 16)]


class NumaNode(msgspec.Struct, frozen=True):
    """One memory domain: its CPU numbers and its memory, as the kernel counts them."""

    cores: Cpus
    memory_bytes: Bytes


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What a node can enforce: None where it can, else the reason why it cannot.

    The first three are not asked for by tasks: where a node cannot hold them, everybody should
    know.
    """

    unprivileged_user: Words | None = None
    cpu_quota: Words | None = None
    process_limit: Words | None = None
    memory_limit: Words | None = None
    time_limit: Words | None = None
    numa_binding: Words | None = None
    private_network: Words | None = None
    private_pid: Words | None = None


class NodeInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a runner tells of its machine when it links up.

    `cpus` are the CPU numbers this runner may give out (`runner.cpus`), `numa_topology` maps the
    kernel's NUMA node number, as text, to the part of it within those CPUs; empty means unknown.
    """

    version: Word
    launcher: Word
    cpus: Cpus
    memory_bytes: Bytes
    numa_topology: dict[NumaNumber, NumaNode] = {}
    capabilities: Capabilities = Capabilities()


class NumaUse(msgspec.Struct, frozen=True):
    """How busy one NUMA node is: CPU in per cent of its cores, memory in bytes."""

    cpu_percent: Figure
    memory_used_bytes: Bytes


class Metrics(msgspec.Struct, frozen=True, kw_only=True):
    """A node's measured use: shown, never scheduled on."""

    cpu_percent: Figure = 0.0
    memory_used_bytes: Bytes = 0
    memory_total_bytes: Bytes = 0
    load_average: Figure = 0.0
    numa: dict[NumaNumber, NumaUse] = {}
