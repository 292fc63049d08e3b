"""``hakuriver.runner``: run this machine's runner in the foreground."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from hakuriver.cli.common import add_common_options, log_to_stderr, run
from hakuriver.config import load_config

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the runner until it is told to stop; return the exit code."""
    parser = argparse.ArgumentParser("hakuriver.runner", description="Run this machine's runner.")
    add_common_options(parser)
    parser.add_argument(
        "--default-workdir",
        type=Path,
        metavar="DIR",
        help="where tasks run that name no folder, when there is no shared directory "
        "(default: a folder of their own)",
    )
    arguments = parser.parse_args(argv)

    def command() -> int:
        # Imported here: the runner needs Linux, its --help does not.
        from hakuriver.runner.main import serve  # noqa: PLC0415

        config = load_config(arguments.config)
        log_to_stderr()
        asyncio.run(serve(config, default_workdir=arguments.default_workdir))
        return 0

    return run("hakuriver.runner", command)
