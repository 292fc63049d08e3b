"""``hakuriver doctor``: what this machine can enforce, why not, and how to mend it."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from typing import TYPE_CHECKING

import msgspec

from hakuriver import tls
from hakuriver._version import __version__
from hakuriver.cli.shared.common import add_common_options, run
from hakuriver.cli.shared.settings import print_json, settings
from hakuriver.cli.shared.tables import Table, show
from hakuriver.errors import HakuRiverError
from hakuriver.model.quantities import format_duration

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from hakuriver.config import Config
    from hakuriver.runner.doctor import Finding

_NAME = "hakuriver doctor"
#: Seconds by which a clock may differ before times of tasks look wrong.
_CLOCK = 2.0


class _Alive(msgspec.Struct, frozen=True):
    version: str
    time: float


def main(argv: Sequence[str] | None = None) -> int:
    """Print what was found; return 0 if a runner with these settings can start here."""
    parser = argparse.ArgumentParser(
        _NAME, description="Show what this machine can enforce for tasks, and why not."
    )
    add_common_options(parser)
    parser.add_argument("--json", action="store_true", help="print nothing but JSON on stdout")
    arguments = parser.parse_args(argv)

    def command() -> int:
        # Imported here: the runner's parts need Linux, --help does not.
        from hakuriver.runner.doctor import examine  # noqa: PLC0415

        config = settings(_NAME, arguments.config)
        if sys.stderr.isatty():
            print("trying units out …", end="\r", file=sys.stderr, flush=True)
        findings = [*examine(config), _host(config)]
        if arguments.json:
            print_json({"findings": findings})
        else:
            show(_table(findings))
            for mend in dict.fromkeys(each.mend for each in findings if each.mend):
                print(f"to mend: {mend}")
        return 0 if all(each.ok or not each.needed for each in findings) else 1

    return run(_NAME, command)


def _table(findings: Iterable[Finding]) -> Table:
    rows = tuple((each.what, "yes" if each.ok else "no", each.why) for each in findings)
    return Table(("ability", "here", "how, or why not"), rows)


def _host(config: Config) -> Finding:
    """Return whether the host answers, and how its clock stands against this one."""
    from hakuriver.runner.doctor import Finding  # noqa: PLC0415

    try:
        before = time.time()
        alive = asyncio.run(_ask(config))
        # The answer was made somewhere between question and arrival.
        doubt = (time.time() - before) / 2
        ahead = alive.time - (before + doubt)
    except HakuRiverError as error:
        return Finding(what="the host", ok=False, why=str(error))
    words = f"{config.host_url} answers (version {alive.version})"
    if alive.version != __version__:
        words += f", this machine has {__version__}: upgrade the host first, then its runners"
    if abs(ahead) <= _CLOCK + doubt:
        return Finding(what="the host", ok=True, why=f"{words}; its clock is this one's")
    way = "ahead of" if ahead > 0 else "behind"
    return Finding(
        what="the host's clock",
        ok=False,
        why=f"{words}; its clock is {format_duration(abs(ahead))} {way} this one",
        mend="sudo timedatectl set-ntp true",
    )


async def _ask(config: Config) -> _Alive:
    from hakuriver.client.transport import Transport  # noqa: PLC0415

    url = config.host_url
    trust = tls.trusting(config.network.tls_ca) if url.startswith("https:") else None
    transport = Transport(url, "", trust=trust)
    try:
        return await transport.request("GET", "/healthz", _Alive)
    finally:
        await transport.close()
