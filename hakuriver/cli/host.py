"""``hakuriver.host``: run the host in the foreground."""

from __future__ import annotations

import argparse
import asyncio
import os
from typing import TYPE_CHECKING

from hakuriver.cli.common import add_common_options, log_to_stderr, run
from hakuriver.config import load_config

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the host until it is told to stop; return the exit code."""
    parser = argparse.ArgumentParser("hakuriver.host", description="Run the cluster's host.")
    add_common_options(parser)
    parser.add_argument(
        "--ready-fd",
        type=int,
        metavar="N",
        help="write the port to this open descriptor once the host answers, then close it",
    )
    arguments = parser.parse_args(argv)

    def command() -> int:
        # Imported here: usage errors and --help need no server.
        from hakuriver.host.main import serve  # noqa: PLC0415

        config = load_config(arguments.config)
        log_to_stderr()

        def listening(_address: str, port: int) -> None:
            if arguments.ready_fd is not None:
                with os.fdopen(arguments.ready_fd, "w") as ready:
                    ready.write(f"{port}\n")

        asyncio.run(serve(config, listening=listening))
        return 0

    return run("hakuriver.host", command)
