"""What a task costs under each launcher on the machines of the lab (``make lab-bench``).

Each figure is the median time of one ``true``, from the call to its exit code in the client's
hand, beside a bare ``systemd-run --wait true`` in the same machine, made in the same way. Both are
slow there, since the machines are emulated; what counts is the ratio.
"""

from __future__ import annotations

import shlex
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lab.lab import Lab

_COUNT = 9
_BARE = {
    "root": "systemd-run --quiet --wait",
    "haku": "sudo -n systemd-run --quiet --wait",
    "lin": "systemd-run --user --quiet --wait",
}


@dataclass(frozen=True)
class Way:
    """A node of the lab, and how its runner starts tasks there."""

    node: str
    machine: str
    user: str
    words: str
    options: tuple[str, ...] = ()


_WAYS = (
    Way("node1", "node1", "haku", "service, by sudo"),
    Way("node2", "node2", "root", "service, by root"),
    Way("node2u", "node2", "lin", "service, by the user's own manager"),
    Way("node1s", "node1", "haku", "scope, by sudo", ("--launcher", "scope")),
    Way("node1p", "node1", "haku", "process", ("--launcher", "process")),
)


def main() -> int:
    """Boot the lab, join what is missing, measure and print; end all that was started."""
    # What it shares with the tests is found from their folder.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from lab.lab import Lab  # noqa: PLC0415

    with tempfile.TemporaryDirectory(prefix="hakuriver-lab-") as folder:
        lab = Lab(Path(folder), _tell)
        try:
            lab.start()
            for way in _WAYS:
                if way.node not in lab.machines:
                    _join(lab, way)
            _say(f"{'launcher':36}{'bare':>9}{'task':>9}{'ratio':>8}")
            for way in _WAYS:
                bare, task = _bare(lab, way), _task(lab, way)
                _say(f"{way.words:36}{bare:8.2f}s{task:8.2f}s{task / bare:8.2f}")
        finally:
            lab.close()
    return 0


def _join(lab: Lab, way: Way) -> None:
    line = shlex.join([*lab.join_words(way.node), *way.options])
    command = f"setsid {line} < /dev/null > $HOME/{way.node}.log 2>&1 &"
    lab.machines[way.machine].run(command, user=way.user)
    lab.wait_online(way.node)
    _tell(f"{way.node} is online")


def _bare(lab: Lab, way: Way) -> float:
    """Return the mean seconds of a bare unit, by the machine's own clock."""
    command = f"for i in $(seq {_COUNT}); do {_BARE[way.user]} true; done"
    timed = f"a=$(date +%s%N); {command}; b=$(date +%s%N); echo $((b - a))"
    return int(lab.machines[way.machine].run(timed, user=way.user).stdout) / 1e9 / _COUNT


def _task(lab: Lab, way: Way) -> float:
    """Return the median seconds of a task."""
    times: list[float] = []
    for _ in range(_COUNT):
        begin = time.perf_counter()
        lab.client.run(["true"], target=way.node).result(60)
        times.append(time.perf_counter() - begin)
    return sorted(times)[_COUNT // 2]


def _tell(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
