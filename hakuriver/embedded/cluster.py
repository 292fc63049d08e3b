"""`up` and `down`: the embedded cluster's life."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import msgspec
import psutil

from hakuriver.client.endpoint import embedded_file
from hakuriver.config import Config, load_config
from hakuriver.embedded import files, waiting
from hakuriver.embedded.processes import Daemon, end, spawn
from hakuriver.errors import ConfigError, HakuRiverError, InvalidRequest, StartError
from hakuriver.model.auth import runner_token
from hakuriver.model.cpulist import parse_cpulist
from hakuriver.model.quantities import memory_of_key
from hakuriver.runner.main import end_tasks

#: More than one machine is meant to be.
MAX_NODES = 64


@dataclass(frozen=True, slots=True)
class Embedded:
    """A running embedded cluster; `started` tells that this call started it.

    `asked` is how many nodes the caller wanted of one that ran already.
    """

    url: str
    token: str = field(repr=False)
    nodes: tuple[str, ...]
    started: bool
    asked: int = 0

    def describe(self) -> str:
        """Return one line for people: where it is and what it has."""
        verb = "is up" if self.started else "is up already"
        words = f"The embedded cluster {verb} at {self.url} (nodes: {', '.join(self.nodes)})"
        if self.asked not in (0, len(self.nodes)):
            plural = "node" if self.asked == 1 else "nodes"
            words += f"; for {self.asked} {plural} take it down first"
        return words


def up(
    *, nodes: int | None = None, workdir: Path | None = None, config: Config | None = None
) -> Embedded:
    """Start a cluster of `nodes` nodes (1), or find the one that runs, whatever its size.

    Of one whose host or runners have died, these are started anew, at the same address.

    The nodes get even shares of this machine's CPUs and memory. Tasks run in `workdir` unless
    they name another folder; by default that is the caller's. Of `config` the timing, the
    retention, the shared and the temporary folder, numactl and the Python for cells are taken
    over. Nodes of an earlier cluster that this one does not have are forgotten.

    Raises:
        InvalidRequest: that is no sensible number of nodes.
        StartError: a process of it did not start; holds its last words.
    """
    config = config or Config()
    shares = _shares(_given_cpus(config), 1 if nodes is None else nodes)
    with files.lock():
        facts = files.read_facts()
        if facts is not None and all(daemon.find() for daemon in facts.daemons):
            names = tuple(facts.nodes)
            return Embedded(facts.url, facts.token, names, started=False, asked=nodes or 0)
        if facts is not None:
            try:
                return _revive(facts, kept=files.kept_secrets(), config=config, workdir=workdir)
            except StartError:
                # Another program has its port, say: nothing of it can be had back.
                _end(facts)
        return _start(shares, workdir or Path.cwd(), config)


def _revive(
    facts: files.Facts, *, kept: files.Secrets, config: Config, workdir: Path | None
) -> Embedded:
    """Start those daemons anew that have died; tasks went on meanwhile, and clients come back."""
    port = int(facts.url.rpartition(":")[2])
    host, *runners = facts.daemons
    place = workdir or Path.cwd()
    alive: list[Daemon] = []
    if host.find() is None:
        host, _ = _start_host(kept, config, port=port)
    alive.append(host)
    for name, runner in zip(facts.nodes, runners, strict=True):
        alive.append(runner if runner.find() else _spawn_runner(files.settings(name), name, place))
    revived = msgspec.structs.replace(facts, daemons=alive)
    files.write_facts(revived)
    waiting.until_online(facts.url, facts.token, facts.nodes)
    return Embedded(facts.url, facts.token, tuple(facts.nodes), started=True)


def down(*, purge: bool = False) -> bool:
    """End the cluster and its tasks; False if none runs. No process of it is left behind.

    With `purge` its tasks, logs and secrets are removed as well.
    """
    with files.lock():
        facts = files.read_facts()
        if facts is not None:
            # A host that no longer answers cannot kill them; their keepers do it below.
            with suppress(HakuRiverError, TimeoutError):
                waiting.kill_tasks(facts.url, facts.token)
            _end(facts)
        if purge:
            shutil.rmtree(files.data(), ignore_errors=True)
        return facts is not None


def _start(shares: list[list[int]], workdir: Path, config: Config) -> Embedded:
    kept = files.kept_secrets()
    names = [f"node{number}" for number in range(1, len(shares) + 1)]
    facts = files.Facts(url="", token=kept.token, nodes=names, daemons=[])
    try:
        host, port = _start_host(kept, config)
        facts.daemons.append(host)
        memory = _given_memory(config) // len(shares)
        for name, cpus in zip(names, shares, strict=True):
            runner = _start_runner(
                port, name, cpus, memory=memory, kept=kept, workdir=workdir, config=config
            )
            facts.daemons.append(runner)
        facts = msgspec.structs.replace(facts, url=f"http://127.0.0.1:{port}")
        waiting.until_online(facts.url, facts.token, names)
        waiting.forget_nodes(facts.url, facts.token, files.former_nodes(names))
    except BaseException:
        _end(facts)
        raise
    files.write_facts(facts)
    return Embedded(facts.url, facts.token, tuple(names), started=True)


def _given_cpus(config: Config) -> list[int]:
    """Return the CPUs that all nodes share: what the configuration says, else the machine's."""
    machine = sorted(os.sched_getaffinity(0))
    if not config.runner.cpus:
        return machine
    try:
        chosen = sorted(set(parse_cpulist(config.runner.cpus)).intersection(machine))
    except ValueError as error:
        raise ConfigError(f"runner.cpus: {error} (write for example 0-3,8)") from None
    if not chosen:
        raise ConfigError(f"runner.cpus = {config.runner.cpus!r}: this machine has none of them")
    return chosen


def _given_memory(config: Config) -> int:
    """Return the bytes that all nodes share: what the configuration says, else the machine's."""
    total = psutil.virtual_memory().total
    if not config.runner.memory:
        return total
    return min(total, memory_of_key("runner.memory", config.runner.memory))


def _start_host(kept: files.Secrets, config: Config, *, port: int = 0) -> tuple[Daemon, int]:
    """Start the host, by default on a free port; return it with the port, once it answers."""
    path = files.write_settings(
        "host",
        {
            "network": {"host_port": port},
            "paths": _paths(config, files.data()),
            "timing": msgspec.to_builtins(config.timing),
            "retention": msgspec.to_builtins(config.retention),
            "security": {"runner_secret": kept.runner_secret},
            "security.tokens": {"default": kept.token},
        },
    )
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as ready:
        try:
            options = ["host", "-c", str(path), "--ready-fd", str(writer)]
            host = spawn(options, files.log("host"), keep=writer)
        finally:
            os.close(writer)
        # Holds the port, or nothing when the host has ended without one.
        answer = ready.readline().strip()
    if not answer:
        end([host])
        raise StartError(f"the host did not start: {files.last_words('host')}")
    return host, int(answer)


def _start_runner(
    port: int,
    name: str,
    cpus: list[int],
    *,
    memory: int,
    kept: files.Secrets,
    workdir: Path,
    config: Config,
) -> Daemon:
    path = files.write_settings(
        name,
        {
            "network": {"host_port": port},
            "paths": _paths(config, files.data() / name),
            "timing": msgspec.to_builtins(config.timing),
            "runner": {
                "name": name,
                "launcher": "process",
                "cpus": ",".join(map(str, cpus)),
                "memory": str(memory),
                "python": config.runner.python,
            },
            "security": {"runner_token": runner_token(kept.runner_secret, name)},
        },
    )
    return _spawn_runner(path, name, workdir)


def _spawn_runner(path: Path, name: str, workdir: Path) -> Daemon:
    options = ["runner", "-c", str(path), "--default-workdir", str(workdir.absolute())]
    return spawn(options, files.log(name))


def _paths(config: Config, state_dir: Path) -> dict[str, object]:
    names = ("shared_dir", "local_temp_dir", "numactl_path")
    kept = {name: getattr(config.paths, name) for name in names}
    return {**kept, "state_dir": str(state_dir)}


def _shares(cpus: list[int], nodes: int) -> list[list[int]]:
    """Split CPU numbers into so many runs of nearly equal length.

    Where there are fewer CPUs than nodes, each node has one, which it shares with others.
    """
    if not 1 <= nodes <= MAX_NODES:
        raise InvalidRequest("nodes", f"{nodes} is not between 1 and {MAX_NODES}")
    if nodes > len(cpus):
        return [[cpus[index % len(cpus)]] for index in range(nodes)]
    bounds = [len(cpus) * index // nodes for index in range(nodes + 1)]
    return [cpus[low:high] for low, high in pairwise(bounds)]


def _end(facts: files.Facts) -> None:
    """End hosts and runners, then what their keepers still hold."""
    end(facts.daemons)
    for name in facts.nodes:
        settings = files.settings(name)
        if settings.is_file():
            waiting.run(end_tasks(load_config(str(settings), environ={})))
    embedded_file().unlink(missing_ok=True)
