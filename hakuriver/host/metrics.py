"""What `/metrics` says, in the words of Prometheus: from live state and the tally, at each scrape.

The only module that needs prometheus-client, which is an extra. Labels are names of nodes, states
and handlers, of which there are few; never tasks.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.registry import Collector

from hakuriver._version import __version__
from hakuriver.model.tasks import UNFINISHED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import Metric

    from hakuriver.host.nodes import Node, Nodes
    from hakuriver.host.services import Services
    from hakuriver.host.tally import Histogram
    from hakuriver.model.views import NodeView

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
#: Of each node: the metric's name, what it says, and where it is found in a view of the node.
_ACCOUNTS = (
    ("hakuriver_node_cores", "CPUs that the node gives out", "total_cores"),
    ("hakuriver_node_cores_in_use", "CPUs that tasks hold", "cores_in_use"),
    ("hakuriver_node_memory_bytes", "Memory that the node gives out", "memory_total_bytes"),
    (
        "hakuriver_node_memory_reserved_bytes",
        "Memory limits of the tasks on it",
        "memory_in_use_bytes",
    ),
    ("hakuriver_node_draining", "1 while no more tasks start on the node", "draining"),
)


def scrape(services: Services) -> bytes:
    """Return all metrics as text."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Host(services))
    ProcessCollector(registry=registry)
    return generate_latest(registry)


class _Host(Collector):
    """Reads the host's live state."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def collect(self) -> Iterator[Metric]:
        """Give every metric of the host itself."""
        yield InfoMetricFamily("hakuriver", "The host", {"version": __version__})
        yield from self._tasks()
        yield from _nodes(self._services.cluster.nodes)
        yield from self._links()
        yield from self._store()
        yield from self._http()

    def _tasks(self) -> Iterator[Metric]:
        cluster = self._services.cluster
        now = Counter(record.status for record in cluster.tasks.values())
        tasks = GaugeMetricFamily(
            "hakuriver_tasks", "Tasks that have not ended, by state", labels=["state"]
        )
        for state in UNFINISHED:
            tasks.add_metric([state.value], now[state])
        yield tasks
        ended = CounterMetricFamily(
            "hakuriver_tasks_ended",
            "Tasks that ended since the host's start, by state; a lost one may come back",
            labels=["state"],
        )
        for state, count in sorted(cluster.tally.ended.items()):
            ended.add_metric([state.value], count)
        yield ended
        yield _histogram(
            "hakuriver_task_wait_seconds", "From submission to start", cluster.tally.wait_seconds
        )
        yield _histogram(
            "hakuriver_task_run_seconds", "From start to end", cluster.tally.run_seconds
        )

    def _links(self) -> Iterator[Metric]:
        losses = CounterMetricFamily(
            "hakuriver_link_losses", "Links that broke since the host's start", labels=["node"]
        )
        for node in self._services.cluster.nodes:
            name = node.record.name
            losses.add_metric([name], self._services.cluster.tally.link_losses[name])
        yield losses

    def _store(self) -> Iterator[Metric]:
        store = self._services.cluster.store
        yield _histogram(
            "hakuriver_store_commit_seconds", "Time of a commit, fsync included", store.seconds
        )
        yield _histogram(
            "hakuriver_store_commit_changes", "Changes that share a commit", store.changes
        )
        yield CounterMetricFamily(
            "hakuriver_store_errors", "Commits that failed", value=store.failures
        )

    def _http(self) -> Iterator[Metric]:
        services, tally = self._services, self._services.cluster.tally
        requests = CounterMetricFamily(
            "hakuriver_http_requests",
            "Requests answered, by handler, method and status",
            labels=["handler", "method", "status"],
        )
        for (handler, method, status), count in sorted(tally.requests.items()):
            requests.add_metric([handler, method, str(status)], count)
        yield requests
        yield _histogram(
            "hakuriver_http_request_seconds",
            "Time of an answer; streams apart",
            tally.request_seconds,
        )
        yield GaugeMetricFamily("hakuriver_streams", "Live streams now", value=tally.streams)
        yield CounterMetricFamily(
            "hakuriver_streams_stalled", "Streams cut off unread", value=tally.stalled
        )
        yield CounterMetricFamily(
            "hakuriver_log_bytes", "Bytes of logs that came from nodes", value=tally.log_bytes
        )
        yield GaugeMetricFamily(
            "hakuriver_strangers",
            "Connections that have shown no token",
            value=len(services.strangers),
        )
        if services.certificate_end is not None:
            yield GaugeMetricFamily(
                "hakuriver_certificate_expiry_timestamp_seconds",
                "When the host's certificate ends",
                value=services.certificate_end,
            )


def _nodes(nodes: Nodes) -> Iterator[Metric]:
    online = _node_gauge("hakuriver_node_online", "1 while tasks may run on the node")
    age = _node_gauge("hakuriver_node_heartbeat_age_seconds", "Since the node was last heard")
    accounts = [(_node_gauge(name, about), field) for name, about, field in _ACCOUNTS]
    cpu = _node_gauge("hakuriver_node_cpu_ratio", "Measured use of all CPUs, 0 to 1")
    used = _node_gauge("hakuriver_node_memory_used_bytes", "Measured use of memory")
    numa = [
        _node_gauge("hakuriver_numa_cores_in_use", "CPUs that tasks hold", "numa"),
        _node_gauge("hakuriver_numa_cpu_ratio", "Measured use of its CPUs, 0 to 1", "numa"),
        _node_gauge("hakuriver_numa_memory_used_bytes", "Measured use of memory", "numa"),
    ]
    for node in nodes:
        name, view = [node.record.name], nodes.view(node)
        online.add_metric(name, node.online)
        age.add_metric(name, max(0.0, time.time() - (node.record.last_heartbeat or 0)))
        for gauge, field in accounts:
            gauge.add_metric(name, getattr(view, field))
        cpu.add_metric(name, node.metrics.cpu_percent / 100)
        used.add_metric(name, node.metrics.memory_used_bytes)
        _add_numa(numa, node, view)
    yield from (online, age, *(gauge for gauge, _ in accounts), cpu, used, *numa)


def _add_numa(gauges: list[GaugeMetricFamily], node: Node, view: NodeView) -> None:
    held, cpu, memory = gauges
    for key, account in view.numa_use.items():
        labels = [node.record.name, key]
        held.add_metric(labels, account.cores_in_use)
        use = node.metrics.numa.get(key)
        if use is not None:
            cpu.add_metric(labels, use.cpu_percent / 100)
            memory.add_metric(labels, use.memory_used_bytes)


def _node_gauge(name: str, about: str, *more: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, about, labels=["node", *more])


def _histogram(name: str, about: str, histogram: Histogram) -> HistogramMetricFamily:
    bounds = [*(repr(bound) for bound in histogram.bounds), "+Inf"]
    buckets = list(zip(bounds, map(float, histogram.cumulative()), strict=True))
    return HistogramMetricFamily(name, about, buckets=buckets, sum_value=histogram.sum)
