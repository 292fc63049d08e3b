"""``hakuriver up`` and ``hakuriver down``: the embedded cluster on this machine."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from hakuriver.cli.shared.common import add_common_options, run
from hakuriver.config import load_config

if TYPE_CHECKING:
    from collections.abc import Sequence


def up(argv: Sequence[str] | None = None) -> int:
    """Start an embedded cluster or find the one that runs; return the exit code."""
    parser = argparse.ArgumentParser(
        "hakuriver up", description="Start a cluster on this machine: no root, no systemd."
    )
    add_common_options(parser)
    parser.add_argument("--nodes", type=int, metavar="N", help="how many (default 1)")
    arguments = parser.parse_args(argv)

    def command() -> int:
        # Imported here: --help needs no cluster.
        from hakuriver import embedded  # noqa: PLC0415
        from hakuriver.client.endpoint import resolve  # noqa: PLC0415

        config = load_config(arguments.config)
        found = embedded.up(nodes=arguments.nodes, config=config)
        print(found.describe())
        if not resolve().embedded:
            print(f"Commands here talk to another host; for this one: HAKURIVER_URL={found.url}")
        return 0

    return run("hakuriver up", command)


def down(argv: Sequence[str] | None = None) -> int:
    """End the embedded cluster and its tasks; return the exit code."""
    parser = argparse.ArgumentParser(
        "hakuriver down", description="End the embedded cluster of this machine, with its tasks."
    )
    add_common_options(parser)
    parser.add_argument("--purge", action="store_true", help="remove its tasks and logs as well")
    arguments = parser.parse_args(argv)

    def command() -> int:
        from hakuriver import embedded  # noqa: PLC0415

        load_config(arguments.config)
        was_up = embedded.down(purge=arguments.purge)
        print("The embedded cluster is down" if was_up else "No embedded cluster runs")
        return 0

    return run("hakuriver down", command)
