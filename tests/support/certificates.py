"""Authorities and certificates made on the spot, as files for the settings of a test."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hakuriver.cli.setup.certificates import Pair, make_authority, make_host
from hakuriver.config import Network

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

LOOPBACK = ("127.0.0.1", "localhost")


@dataclass(frozen=True)
class Files:
    """An authority, with a certificate of it and the key, as PEM files of a folder."""

    authority: Pair
    folder: Path

    @property
    def ca(self) -> Path:
        return self.folder / "ca.pem"

    @property
    def cert(self) -> Path:
        return self.folder / "host.pem"

    @property
    def key(self) -> Path:
        return self.folder / "host.key"

    def issue(
        self,
        names: Sequence[str] = LOOPBACK,
        *,
        days: int = 30,
        ago: float = 0,
        alone: bool = False,
    ) -> None:
        """Write a certificate made `ago` days before now; `alone` leaves its authority's out."""
        then = dt.datetime.now(dt.UTC) - dt.timedelta(days=ago)
        made = make_host(self.authority, names, days=days, now=then)
        chain = made.certificate
        if alone:
            chain = chain.removesuffix(self.authority.certificate)
        self.cert.write_text(chain, "ascii")
        self.key.touch(0o600)
        self.key.write_text(made.key, "ascii")

    @property
    def network(self) -> Network:
        return Network(tls_cert=str(self.cert), tls_key=str(self.key), tls_ca=str(self.ca))

    @property
    def settings(self) -> dict[str, dict[str, object]]:
        """What makes a cluster speak TLS."""
        network = self.network
        keys = ("tls_cert", "tls_key", "tls_ca")
        return {"network": {key: getattr(network, key) for key in keys}}


def make_files(folder: Path) -> Files:
    """Write a new authority with a certificate for the loopback."""
    folder.mkdir(parents=True, exist_ok=True)
    made = Files(make_authority(), folder)
    made.ca.write_text(made.authority.certificate, "ascii")
    made.issue()
    return made
