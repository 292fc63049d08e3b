from __future__ import annotations

import builtins
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
import yaml
from prometheus_client.parser import text_string_to_metric_families

from hakuriver.host.metrics import scrape
from hakuriver.host.tally import QUICK, Histogram
from hakuriver.model.messages import Launch
from support.host_server import Server, open_server
from support.host_world import completed, started, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

DOCS = Path(__file__).resolve().parents[3] / "docs"
_NAME = re.compile(r"\b(hakuriver_\w+|process_\w+)\b")


@pytest_asyncio.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with open_server(tmp_path / "h.db") as server:
        yield server


async def samples(server: Server) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    response = await server.ask("/metrics")
    assert response.code == 200
    assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(response.body.decode())
        for sample in family.samples
    }


def of(name: str, **labels: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    return name, tuple(sorted(labels.items()))


@pytest.mark.asyncio
async def test_the_figures_follow_what_happens(server: Server) -> None:
    wire = await server.join()
    (task_id,) = await server.submitted()
    await wire.hear_a(Launch)
    found = await samples(server)
    assert found[of("hakuriver_tasks", state="assigning")] == 1
    assert found[of("hakuriver_node_online", node="n")] == 1
    assert found[of("hakuriver_node_cores_in_use", node="n")] == 1
    assert found[of("hakuriver_node_cpu_ratio", node="n")] == pytest.approx(0.05)
    await wire.say(started(task_id), completed(task_id))
    await until(lambda: not server.world.cluster.tasks)
    wire.socket.close()
    await until(lambda: not server.world.cluster.nodes.online_link("n"))
    found = await samples(server)
    assert found[of("hakuriver_tasks", state="assigning")] == 0
    assert found[of("hakuriver_tasks_ended_total", state="completed")] == 1
    assert found[of("hakuriver_task_wait_seconds_count")] == 1
    assert found[of("hakuriver_task_run_seconds_count")] == 1
    assert found[of("hakuriver_node_online", node="n")] == 0
    assert found[of("hakuriver_link_losses_total", node="n")] == 1
    assert found[of("hakuriver_store_commit_seconds_count")] > 0
    requests = of("hakuriver_http_requests_total", handler="Metrics", method="GET", status="200")
    assert found[requests] == 1
    assert found[of("process_resident_memory_bytes")] > 0


@pytest.mark.asyncio
async def test_without_a_token_there_are_no_figures(server: Server) -> None:
    assert (await server.ask("/api/metrics", token=None)).code == 401


@pytest.mark.asyncio
async def test_without_the_library_the_extra_is_named(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("hakuriver.host") and "metrics" in (args[2] or ()):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    response = await server.ask("/metrics")
    assert response.code == 501
    assert "hakuriver-jupyter[metrics]" in json.loads(response.body)["detail"]


@pytest.mark.asyncio
async def test_every_metric_that_the_documents_name_is_there(server: Server) -> None:
    await server.join()
    text = scrape(server.services).decode()
    there = set(re.findall(r"^# TYPE (\S+) ", text, re.MULTILINE))
    there |= {f"{name}{suffix}" for name in there for suffix in ("_bucket", "_count", "_sum")}
    # It shows with TLS alone.
    there.add("hakuriver_certificate_expiry_timestamp_seconds")
    for file in ("monitoring.md", "monitoring/alerts.yml", "monitoring/dashboard.json"):
        named = set(_NAME.findall((DOCS / file).read_text("utf-8"))) - {"process_"}
        assert named
        assert named <= there, (file, named - there)
    told = (DOCS / "monitoring.md").read_text("utf-8")
    ours = re.findall(r"^# TYPE (hakuriver_\S+) ", text, re.MULTILINE)
    assert {name for name in ours if name not in told} == set()


def test_the_examples_can_be_read() -> None:
    alerts = yaml.safe_load((DOCS / "monitoring/alerts.yml").read_text("utf-8"))
    rules = [rule for group in alerts["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules) > 5
    assert all(rule["expr"] and rule["annotations"]["summary"] for rule in rules)
    board = json.loads((DOCS / "monitoring/dashboard.json").read_text("utf-8"))
    assert board["schemaVersion"] >= 36
    assert all(panel["targets"] for panel in board["panels"])
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


def test_a_histogram_counts_what_is_not_above_its_bounds() -> None:
    histogram = Histogram(QUICK)
    for value in (0.0005, 0.0006, 3.0, 99.0, -1.0):
        histogram.observe(value)
    assert histogram.cumulative()[:2] == [2, 3]
    assert histogram.cumulative()[-2:] == [4, 5]
    assert histogram.sum == pytest.approx(102.0011)
