"""The command line of the campaigns."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path

from faults.campaign import Campaign


def main() -> int:
    """Run one campaign and print its figures; 1 if something was wrong."""
    parser = argparse.ArgumentParser(
        prog="python tests/faults",
        description="Kills, stops and cuts off a cluster under load, and compares what the host "
        "shows with what the tasks did.",
    )
    parser.add_argument("--seed", type=int, help="repeats a campaign (default: a new one)")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--tasks", type=int, default=2000)
    parser.add_argument("--keep", metavar="DIR", help="leave the cluster's files in a new folder")
    options = parser.parse_args()
    seed = random.randrange(1 << 32) if options.seed is None else options.seed
    again = f"--seed {seed} --kills {options.kills} --tasks {options.tasks}"
    sys.stderr.write(f"repeat with {again}\n")
    with tempfile.TemporaryDirectory(prefix="hakuriver-faults-") as folder:
        root = Path(options.keep or folder)
        campaign = Campaign(
            root, seed=seed, kills=options.kills, tasks=options.tasks, tell=_progress
        )
        report = campaign.run()
    sys.stderr.write("\n")
    sys.stdout.write("\n".join(report.lines()) + "\n")
    return 1 if report.findings.wrong else 0


def _progress(text: str) -> None:
    sys.stderr.write(f"\r{text}\x1b[K" if sys.stderr.isatty() else f"{text}\n")
    sys.stderr.flush()
