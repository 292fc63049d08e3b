"""How a runner's token follows from the host's secret and the node's name."""

from __future__ import annotations

import hashlib
import hmac


def runner_token(secret: str, node: str) -> str:
    """Return the token with which a runner speaks for `node`, and for that node alone."""
    return hmac.new(secret.encode(), f"runner:{node}".encode(), hashlib.sha256).hexdigest()
