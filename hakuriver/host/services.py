"""What the handlers work with, handed to them through the application's settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hakuriver.host.rates import Rate
from hakuriver.host.strangers import Strangers

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
    #: When the host's certificate ends (Unix time), None without TLS.
    certificate_end: float | None = None
    strangers: Strangers = field(default_factory=Strangers)
    #: Wrong tokens, by the address that they come from.
    guesses: Rate = field(default_factory=lambda: Rate(per_second=20, burst=1000))
    #: Requests, by whose they are.
    requests: Rate = field(default_factory=lambda: Rate(per_second=2000, burst=10_000))
