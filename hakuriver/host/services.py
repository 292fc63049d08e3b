"""What the handlers work with, handed to them through the application's settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hakuriver.config import Config
    from hakuriver.host.auth import Gate
    from hakuriver.host.cluster import Cluster
    from hakuriver.host.logs import Subscriptions


@dataclass(frozen=True, slots=True)
class Services:
    """The parts of a running host."""

    config: Config
    gate: Gate
    cluster: Cluster
    subscriptions: Subscriptions
