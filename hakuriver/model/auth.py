"""What follows from the host's secret: the token of each runner, and the cluster's own id."""

from __future__ import annotations

import hashlib
import hmac


def cluster_id(secret: str) -> str:
    """Return what a host with this secret and an empty database calls its cluster.

    A database that is lost and made anew is thus the same cluster's, and takes its tasks back.
    """
    return hmac.new(secret.encode(), b"cluster", hashlib.sha256).hexdigest()[:32]


def runner_token(secret: str, node: str) -> str:
    """Return the token with which a runner speaks for `node`, and for that node alone."""
    return hmac.new(secret.encode(), f"runner:{node}".encode(), hashlib.sha256).hexdigest()
