"""``GET /metrics``: the host's figures for Prometheus."""

from __future__ import annotations

import msgspec

from hakuriver.host.api.base import ApiHandler
from hakuriver.host.api.operations import TEXT, Operation
from hakuriver.model.views import ErrorView

MISSING = (
    "this host was installed without its metrics: on its machine, "
    "pip install 'hakuriver-jupyter[metrics]', then restart it"
)


class Metrics(ApiHandler):
    """Answers what there is at this moment."""

    async def get(self) -> None:
        """Answer all metrics, or 501 where prometheus-client is missing."""
        try:
            from hakuriver.host import metrics  # noqa: PLC0415 - its library is an extra
        except ImportError:
            self.set_status(501)
            self.set_header("Content-Type", "application/json")
            await self.finish(msgspec.json.encode(ErrorView(detail=MISSING)))
            return
        self.set_header("Content-Type", metrics.CONTENT_TYPE)
        await self.finish(metrics.scrape(self.services))


OPERATIONS = [
    Operation(
        method="GET",
        path="/metrics",
        summary="The host's figures, for Prometheus",
        replies={TEXT: None},
        errors=(501,),
    ),
]
ROUTES = [(r"(?:/api)?/metrics", Metrics)]
