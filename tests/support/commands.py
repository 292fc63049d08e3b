"""What the client's commands print."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from support.harness import Cluster


def client_json(cluster: Cluster, *args: str, check: int = 0) -> Any:
    """Run the client with ``--json`` and return the one document that it prints."""
    return json.loads(cluster.run_client(*args, "--json", check=check).stdout)
