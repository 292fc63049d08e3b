"""Nodes: what they have, how busy they are, and whether the host itself lives."""

from __future__ import annotations

import time
from typing import Annotated

import msgspec
from msgspec import Meta

from hakuriver._version import __version__
from hakuriver.host import exchange
from hakuriver.host.api.base import ApiHandler
from hakuriver.host.api.operations import JSON, Operation
from hakuriver.model.targets import MAX_NODE_NAME
from hakuriver.model.views import Alive, Done, HealthList, NodeList, NodeView


class HealthQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Of which nodes the use is asked for."""

    hostname: Annotated[
        Annotated[str, Meta(max_length=MAX_NODE_NAME)] | None,
        Meta(description="The name of one node; else all."),
    ] = None


class Nodes(ApiHandler):
    """``GET /nodes``."""

    async def get(self) -> None:
        """Answer all nodes with their accounting."""
        await self.reply(NodeList(self.services.cluster.nodes.views()))


class Health(ApiHandler):
    """``GET /health``, of all nodes or of the one in ``?hostname=``."""

    async def get(self) -> None:
        """Answer the measured use; 404 for a name that no node bears."""
        nodes = self.services.cluster.nodes
        name = self.query(HealthQuery).hostname
        chosen = list(nodes) if name is None else [nodes.get(name)]
        await self.reply(HealthList([nodes.health(node) for node in chosen]))


class Drain(ApiHandler):
    """``POST /nodes/{name}/drain`` and ``/resume``."""

    async def post(self, name: str, what: str) -> None:
        """Answer the node as it is now; 404 for a name that no node bears."""
        cluster = self.services.cluster
        node = await cluster.nodes.drain(name, draining=what == "drain")
        cluster.schedule()
        await self.reply(cluster.nodes.view(node))


class Forget(ApiHandler):
    """``DELETE /nodes/{name}``."""

    async def delete(self, name: str) -> None:
        """Remove an offline node and end what was to run on it; 404, or 409 if it is online."""
        await exchange.forget(self.services.cluster, name)
        await self.reply(Done(f"{name} is forgotten"))


class Liveness(ApiHandler):
    """``GET /healthz``: for whoever watches the process; needs no token."""

    def authenticate(self) -> str:
        """Let everybody ask."""
        return ""

    async def get(self) -> None:
        """Answer that the event loop runs, and what time it is here (Unix time)."""
        await self.reply(Alive(version=__version__, time=time.time()))


OPERATIONS = [
    Operation(
        method="GET",
        path="/nodes",
        summary="All nodes with their accounting",
        replies={JSON: NodeList},
    ),
    Operation(
        method="POST",
        path="/nodes/{name}/drain",
        summary="Let no more tasks start on a node",
        replies={JSON: NodeView},
        errors=(404,),
    ),
    Operation(
        method="POST",
        path="/nodes/{name}/resume",
        summary="Let tasks start on a node again",
        replies={JSON: NodeView},
        errors=(404,),
    ),
    Operation(
        method="DELETE",
        path="/nodes/{name}",
        summary="Remove an offline node",
        replies={JSON: Done},
        errors=(404, 409),
    ),
    Operation(
        method="GET",
        path="/health",
        summary="How busy the nodes are, by their last heartbeats",
        query=HealthQuery,
        replies={JSON: HealthList},
        errors=(404,),
    ),
    Operation(
        method="GET",
        path="/healthz",
        summary="Whether the host lives",
        replies={JSON: Alive},
        access="all",
    ),
]
ROUTES = [
    (r"(?:/api)?/nodes", Nodes),
    (r"(?:/api)?/nodes/([^/]+)/(drain|resume)", Drain),
    (r"(?:/api)?/nodes/([^/]+)", Forget),
    (r"(?:/api)?/health", Health),
    (r"(?:/api)?/healthz", Liveness),
]
