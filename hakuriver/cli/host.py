"""``hakuriver.host``: run the host in the foreground."""

from __future__ import annotations

import argparse
import asyncio
import os
from typing import TYPE_CHECKING

from hakuriver.cli.shared.common import add_common_options, run
from hakuriver.cli.shared.entry import entry
from hakuriver.cli.shared.logfile import add_log_format, logging_to
from hakuriver.cli.shared.settings import settings

if TYPE_CHECKING:
    from collections.abc import Sequence

_NAME = "hakuriver.host"


@entry
def main(argv: Sequence[str] | None = None) -> int:
    """Run the host until it is told to stop; return the exit code."""
    parser = argparse.ArgumentParser(_NAME, description="Run the cluster's host.")
    add_common_options(parser)
    add_log_format(parser)
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

        config = settings(_NAME, arguments.config)

        def listening(_address: str, port: int) -> None:
            if arguments.ready_fd is not None:
                with os.fdopen(arguments.ready_fd, "w") as ready:
                    ready.write(f"{port}\n")

        with logging_to(
            config.paths.host_log_file, key="paths.host_log_file", form=arguments.log_format
        ):
            asyncio.run(serve(config, listening=listening))
        return 0

    return run(_NAME, command)
