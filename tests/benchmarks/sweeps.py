"""hakurun beside ``xargs`` and GNU parallel, in turns: ``python tests/benchmarks/sweeps.py``.

Each runs ``true`` a thousand times, two at once. What counts are ratios of the medians of the same
run; a program that is not installed is left out.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from statistics import median

_RUNS = 1000
_ROUNDS = 5
_GOAL = 1.3
_GOAL_SECONDS = 2.0


def main() -> int:
    """Print the medians; return 1 if a goal was missed."""
    numbers = "".join(f"{number}\n" for number in range(1, _RUNS + 1)).encode()
    span = f"span:{{1..{_RUNS}}}"
    start = [
        sys.executable,
        "-c",
        "from hakuriver.cli.hakurun import main; raise SystemExit(main())",
    ]
    commands = {
        "xargs -P2": ["xargs", "-P2", "-n1", "true"],
        "GNU parallel -j2": ["parallel", "-j2", "true"],
        "hakurun --jobs 2": [*start, "--jobs", "2", "true", span],
        "hakurun, a function": [*start, "--jobs", "2", "builtins:len", span],
    }
    commands = {name: words for name, words in commands.items() if shutil.which(words[0])}
    times: dict[str, list[float]] = {name: [] for name in commands}
    with tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, "XDG_STATE_HOME": folder, "HOME": folder}
        for _ in range(_ROUNDS):
            for name, words in commands.items():
                began = time.perf_counter()
                subprocess.run(words, input=numbers, env=env, capture_output=True, check=True)
                times[name].append(time.perf_counter() - began)
    medians = {name: median(each) for name, each in times.items()}
    base = medians["xargs -P2"]
    for name, seconds in medians.items():
        sys.stdout.write(f"{name:<22} {seconds:6.2f} s  {seconds / base:5.2f} times xargs\n")
    quick = medians["hakurun --jobs 2"] <= _GOAL * base
    return 0 if quick and medians["hakurun, a function"] <= _GOAL_SECONDS else 1


if __name__ == "__main__":
    sys.exit(main())
