"""What a campaign does to the cluster, and what its tasks do: all of it follows from the seed."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

#: What these write is compared, line by line.
PRINTING = ("prints", "floods")

Kind = Literal["kill", "stop", "cut", "half-close", "delay", "repeat", "partition"]
Job = Literal["short", "fails", "crashes", "sleeps", "prints", "floods", "endless"]

#: Longer than a node may be silent in a campaign, in seconds: its tasks are believed lost.
LONG = 3.0
_LINKS: tuple[Kind, ...] = ("cut", "half-close", "delay", "repeat", "partition")
_JOBS: dict[Job, int] = {
    "short": 50,
    "fails": 10,
    "crashes": 4,
    "sleeps": 16,
    "prints": 15,
    "floods": 2,
    "endless": 5,
}


@dataclass(frozen=True, slots=True)
class Blow:
    """One fault: it falls when so many tasks have started, and lasts for some seconds.

    `victims` are ``host`` and nodes; of a link, the node at its end.
    """

    kind: Kind
    after: int
    victims: tuple[str, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class Work:
    """What one task does; `amount` is its exit code, its seconds, or its lines."""

    index: int
    job: Job
    amount: float
    target: str | None
    cores: int


def blows(seed: int, *, kills: int, tasks: int, nodes: list[str]) -> list[Blow]:
    """Return the faults in their order: `kills` by SIGKILL, and half as many others."""
    rng = random.Random(f"blows {seed}")
    kinds: list[Kind] = ["kill" for _ in range(kills)]
    kinds += [rng.choice((*_LINKS, "stop")) for _ in range((kills + 1) // 2)]
    rng.shuffle(kinds)
    # The last ones fall well before the end, so that there is something to hit.
    moments = sorted(rng.randrange(max(1, int(tasks * 0.9))) for _ in kinds)
    return [_blow(rng, kind, after, nodes) for kind, after in zip(kinds, moments, strict=True)]


def _blow(rng: random.Random, kind: Kind, after: int, nodes: list[str]) -> Blow:
    everybody = ["host", *nodes]
    if kind == "kill":
        count = rng.choice((1, 1, 1, 1, 1, 2, len(everybody)))
        return Blow(kind, after, tuple(rng.sample(everybody, count)), rng.choice((0, 0.1, 0.4)))
    if kind == "stop":
        long = rng.random() < 0.2
        return Blow(kind, after, (rng.choice(everybody),), LONG if long else rng.uniform(0.1, 1))
    long = kind == "partition" and rng.random() < 0.3
    return Blow(kind, after, (rng.choice(nodes),), LONG if long else rng.uniform(0.1, 1))


def works(seed: int, *, tasks: int, nodes: list[str]) -> list[Work]:
    """Return what each task is to do."""
    rng = random.Random(f"works {seed}")
    jobs = rng.choices(list(_JOBS), list(_JOBS.values()), k=tasks)
    return [
        Work(
            index=index,
            job=job,
            amount={
                "fails": rng.randrange(1, 100),
                "sleeps": round(rng.uniform(0.05, 1.0), 2),
                "prints": rng.choice((1, 100, 5000)),
                # Some megabytes, faster than anybody reads them.
                "floods": 600_000,
            }.get(job, 0),
            target=rng.choice((None, *nodes)),
            cores=rng.choice((0, 1, 1)),
        )
        for index, job in enumerate(jobs)
    ]
