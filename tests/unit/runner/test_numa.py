from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hakuriver.model.nodes import NumaNode
from hakuriver.runner.numa import format_cpulist, parse_cpulist, read_meminfo, read_topology
from support.runner_tools import fake_sysfs

if TYPE_CHECKING:
    from pathlib import Path


@given(st.sets(st.integers(0, 500)))
def test_a_formatted_list_reads_back(cpus: set[int]) -> None:
    assert parse_cpulist(format_cpulist(cpus)) == tuple(sorted(cpus))


@given(st.text("0123456789-,x \n", max_size=20))
def test_any_text_is_a_list_or_refused(text: str) -> None:
    try:
        cpus = parse_cpulist(text)
    except ValueError:
        return
    assert list(cpus) == sorted(set(cpus))


@pytest.mark.parametrize(
    ("text", "cpus"), [("0-3,8\n", (0, 1, 2, 3, 8)), ("", ()), ("5", (5,)), ("3,1,2-3", (1, 2, 3))]
)
def test_lists_as_the_kernel_writes_them(text: str, cpus: tuple[int, ...]) -> None:
    assert parse_cpulist(text) == cpus


@pytest.mark.parametrize("text", ["3-1", "a", "1,,2", "-1", "1-", "99999999", "1 2"])
def test_what_is_no_list_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no"):
        parse_cpulist(text)


def test_formatting_joins_runs() -> None:
    assert format_cpulist([8, 0, 1, 2, 3, 3]) == "0-3,8"


def test_a_topology_of_two_nodes_and_one_of_memory_alone(tmp_path: Path) -> None:
    fake_sysfs(tmp_path, {0: ("0-3", 4096), 1: ("4-7", 8192), 2: ("", 1024)})
    topology = read_topology(tmp_path, range(8))
    assert topology == {
        "0": NumaNode(cores=(0, 1, 2, 3), memory_bytes=4096 << 10),
        "1": NumaNode(cores=(4, 5, 6, 7), memory_bytes=8192 << 10),
        "2": NumaNode(cores=(), memory_bytes=1024 << 10),
    }
    assert read_meminfo(tmp_path, 1)["MemUsed"] == 4096 << 10


def test_a_topology_is_restricted_to_the_cpus_allowed(tmp_path: Path) -> None:
    fake_sysfs(tmp_path, {0: ("0-3", 1), 1: ("4-7", 1)})
    topology = read_topology(tmp_path, (3, 4))
    assert [node.cores for node in topology.values()] == [(3,), (4,)]


def test_a_kernel_that_tells_nothing_has_no_topology(tmp_path: Path) -> None:
    assert read_topology(tmp_path, (0,)) == {}
    assert read_meminfo(tmp_path, 0) == {}
