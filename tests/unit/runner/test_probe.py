from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from hakuriver.config import Config, Runner
from hakuriver.errors import ConfigError
from hakuriver.model.nodes import Capabilities
from hakuriver.runner import probe as probe_module
from hakuriver.runner.probe import probe
from support.runner_tools import fake_sysfs

if TYPE_CHECKING:
    from pathlib import Path

    from hakuriver.model.nodes import NodeInfo


def config(**runner: Any) -> Config:
    return Config(runner=Runner(**{"launcher": "process", **runner}))


def probe_here(settings: Config, **how: Any) -> NodeInfo:
    return probe(settings, launcher="process", able=Capabilities(private_pid="no"), **how)


def test_by_default_all_of_the_machine_is_given_out() -> None:
    info = probe_here(config())
    assert info.cpus == tuple(sorted(os.sched_getaffinity(0)))
    assert info.memory_bytes == psutil.virtual_memory().total
    assert info.launcher == "process"
    assert info.version


def test_a_part_of_the_machine(tmp_path: Path) -> None:
    cpu = max(os.sched_getaffinity(0))
    fake_sysfs(tmp_path, {0: (f"0-{cpu}", 2048), 1: ("900-901", 2048)})
    info = probe_here(config(cpus=str(cpu), memory="1M"), sysfs=tmp_path)
    assert info.cpus == (cpu,)
    assert info.memory_bytes == 1 << 20
    assert info.numa_topology["0"].cores == (cpu,)
    assert info.numa_topology["1"].cores == ()


@pytest.mark.parametrize(
    ("key", "value"), [("cpus", "60000"), ("cpus", "x"), ("memory", "1X"), ("memory", "900P")]
)
def test_what_the_machine_has_not_is_refused_with_the_key(key: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"runner.{key}"):
        probe_here(config(**{key: value}))


def test_what_the_launcher_enforces_is_told_on(tmp_path: Path) -> None:
    able = probe_here(config(), sysfs=tmp_path).capabilities
    assert able.memory_limit is None
    assert able.private_pid == "no"
    assert able.numa_binding == "the kernel tells no NUMA topology"


def test_numa_binding_is_tried_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_sysfs(tmp_path, {0: ("0", 1)})

    def fault(**how: Any) -> str | None:
        return probe_here(config(), sysfs=tmp_path, **how).capabilities.numa_binding

    monkeypatch.setattr(probe_module, "set_memory_policy", lambda *_: None)
    assert fault() is None
    monkeypatch.setattr(probe_module, "set_memory_policy", lambda *_: "not permitted")
    assert "not permitted" in str(fault())
    # What the kernel refuses to us it refuses to numactl; a call that only we do not know, not.
    assert "not permitted" in str(fault(numactl="/x/numactl"))
    monkeypatch.setattr(probe_module, "can_set_memory_policy", lambda: False)
    assert fault() is not None
    assert fault(numactl="/x/numactl") is None
