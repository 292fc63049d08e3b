"""A whole cluster of real processes for a test: it makes them, watches them and ends them.

A `Cluster` owns one folder. Every daemon has its own configuration file, state directory and log
file in there, and whatever still runs with a trace of that folder at the end is a leak.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from support.asking import Asking
from support.processes import (
    Daemon,
    check_no_leftovers,
    clean_environment,
    free_port,
    run_hakuriver,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

FINAL = frozenset({"completed", "failed", "killed", "killed_oom", "lost"})
KILL_GRACE = 1.0
HEARTBEAT = 0.5
#: A node may be silent for so long: longer than a busy machine lets one of its processes stand.
SILENCE = 30.0
#: Where a variable of the daemons alone would show up, if a task could see it.
PRIVATE_VARIABLE = "DAEMONS_OWN_VARIABLE"

_TROUBLE = re.compile(
    r"Traceback|\bERROR\b|\bCRITICAL\b|never awaited|never retrieved|was destroyed|ResourceWarning"
)
_ID = re.compile(r"\b\d{15,19}\b")
_UNSET: Any = object()


def ids_in(text: str) -> list[str]:
    """Return the distinct ids that `text` shows, in the order in which they appear."""
    return list(dict.fromkeys(_ID.findall(text)))


def check_one_line(stderr: str, *words: str) -> None:
    """Fail unless `stderr` is one line that holds all `words`."""
    assert len(stderr.strip().splitlines()) == 1, stderr
    for word in words:
        assert word in stderr, f"{word!r} is not in {stderr!r}"


def rows(document: Any, key: str) -> list[Any]:
    """Return the list that a command's JSON shows, be it wrapped in an object or not."""
    found = document[key] if isinstance(document, dict) else document
    assert isinstance(found, list), document
    return found


@contextmanager
def started(cluster: Cluster) -> Iterator[Cluster]:
    """Start a cluster for many tests, and end it; what it has logged must be in order."""
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
    cluster.check_logs()


@dataclass
class Cluster(Asking):
    """A host and its runners. The `nodes` map each name to the CPUs that it may give out.

    `settings` are laid over every daemon's configuration, section by section. With `sysfs` the
    runners read their NUMA topology there. `ways` are the ports at which nodes look for the host,
    where that is not its own. `options` are added to the command of every daemon.
    """

    root: Path
    nodes: Mapping[str, str] = field(default_factory=dict)
    shared: bool = False
    settings: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    sysfs: Path | None = None
    ways: Mapping[str, int] = field(default_factory=dict)
    options: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not self.nodes:
            second = "1" if (os.cpu_count() or 1) > 1 else "0"
            self.nodes = {"node1": "0", "node2": second}
        self.port = free_port()
        self.token = secrets.token_hex(16)
        self.second_token = secrets.token_hex(16)
        self.runner_secret = secrets.token_hex(16)
        self.private_value = secrets.token_hex(16)
        self.shared_dir = self.root / "shared"
        self.home = self.root / "home"
        self.env = clean_environment(self.home)
        self._daemons_env = {
            **self.env,
            PRIVATE_VARIABLE: self.private_value,
            # What a daemon leaves unclosed shows in its log.
            "PYTHONWARNINGS": "default",
        }
        self.config = self._write_config("client", {})
        self.host = self._daemon("host", {})
        self.runners = {
            name: self._daemon(
                "runner", {"runner": {"name": name, "launcher": "process", "cpus": cpus}}, name
            )
            for name, cpus in self.nodes.items()
        }
        self._checked: dict[str, int] = {}
        self._expected: list[str] = []
        self._clients: list[subprocess.Popen[bytes]] = []

    # Daemons.

    def state_dir(self, name: str) -> Path:
        """Return the state directory of a node, or of ``host``."""
        return self.root / name / "state"

    def start(self) -> None:
        self.start_host()
        for name in self.nodes:
            self.start_runner(name)
        for name in self.nodes:
            self.wait_online(name)

    def start_host(self) -> None:
        self.host.start()
        wait_until(self.is_healthy, what="the host's /healthz")

    def start_runner(self, name: str) -> None:
        self.runners[name].start()

    def wait_online(self, name: str) -> None:
        def online() -> bool:
            self.runners[name].check_alive()
            return self.node_status(name) == "online"

        wait_until(online, timeout=60, what=f"{name} online")

    def node(self, name: str) -> Any:
        """Return a node as the host shows it; None if there is none of that name."""
        nodes = {node["hostname"]: node for node in self.get("/api/nodes")["nodes"]}
        return nodes.get(name)

    def node_status(self, name: str) -> str | None:
        node = self.node(name)
        return str(node["status"]) if node else None

    def kill(self, *names: str) -> None:
        """SIGKILL these at once, each ``host`` or a node; keepers and tasks stay."""
        daemons = [self._named(name) for name in names]
        for daemon in daemons:
            daemon.check_alive()
            os.kill(daemon.pid, signal.SIGKILL)
        for name, daemon in zip(names, daemons, strict=True):
            assert daemon.process is not None
            assert daemon.process.wait(30) == -signal.SIGKILL, name
            daemon.process = None

    def restart(self, *names: str) -> None:
        """Start these again, each ``host`` or a node, and wait until they are all linked."""
        for name in names:
            self._named(name).start()
        wait_until(self.is_healthy, what="the host's /healthz")
        for name in names:
            if name != "host":
                self.wait_online(name)

    def _named(self, name: str) -> Daemon:
        return self.host if name == "host" else self.runners[name]

    def stop(self) -> None:
        """End everything that was started; fail if something does not end or stays behind."""
        troubles: list[str] = []
        steps: list[Callable[[], None]] = [self.kill_unfinished, self._end_clients]
        steps += [runner.stop for runner in self.runners.values()]
        steps += [self.host.stop, lambda: check_no_leftovers(self.root)]
        for step in steps:
            try:
                step()
            except (AssertionError, OSError) as error:
                troubles.append(str(error))
        assert not troubles, "\n".join(troubles)

    def kill_unfinished(self) -> None:
        """Kill what has not ended, and wait until it has."""
        if self.host.process is None:
            return

        asked: set[str] = set()

        def quiet() -> bool:
            left = [task["task_id"] for task in self.unfinished()]
            # Once is enough for each: a thousand take a while on a slow machine.
            for task_id in left:
                if task_id in asked:
                    continue
                if self.http("POST", f"/api/kill/{task_id}").status == 202:
                    asked.add(task_id)
            return not left

        online = any(runner.process for runner in self.runners.values())
        wait_until(quiet, timeout=60 if online else 0, what="all tasks ended", interval=0.1)

    def expect_trouble(self, *words: str) -> None:
        """Let lines that hold one of these words pass: the test makes that trouble itself."""
        self._expected += words

    def check_logs(self) -> None:
        """Fail if a daemon has logged trouble since the last check."""
        troubles: list[str] = []
        for name, daemon in self._daemons():
            text = daemon.text()
            new = text[self._checked.get(name, 0) :]
            self._checked[name] = len(text)
            lines = new.splitlines()
            new = "\n".join(line for line in lines if not any(map(line.count, self._expected)))
            if _TROUBLE.search(new):
                troubles.append(f"trouble in the log of {name}:\n{new[-8000:]}")
        assert not troubles, "\n".join(troubles)

    def check_alive(self) -> None:
        for _, daemon in self._daemons():
            daemon.check_alive()

    def _daemons(self) -> Iterator[tuple[str, Daemon]]:
        yield "host", self.host
        yield from self.runners.items()

    def _daemon(self, role: str, more: dict[str, dict[str, object]], name: str = "") -> Daemon:
        name = name or role
        more = {**more, "paths": {"state_dir": str(self.state_dir(name))}}
        if name in self.ways:
            more["network"] = {"host_port": self.ways[name]}
        config = self._write_config(name, more)
        injected = ["--sysfs", str(self.sysfs)] if self.sysfs and role == "runner" else []
        return Daemon(
            argv=[role, "-c", str(config), *injected, *self.options],
            env=self._daemons_env,
            cwd=self.root / name / "cwd",
            log=self.root / f"{name}.log",
        )

    def _write_config(self, name: str, more: Mapping[str, Mapping[str, object]]) -> Path:
        sections: dict[str, dict[str, object]] = {
            "network": {"host_port": self.port},
            "paths": {},
            "timing": {
                "heartbeat_interval": HEARTBEAT,
                "heartbeat_timeout_factor": SILENCE / HEARTBEAT,
                "cleanup_check_interval": 0.5,
                "kill_grace": KILL_GRACE,
            },
            "security": {"runner_secret": self.runner_secret},
            "security.tokens": {"default": self.token, "alice": self.second_token},
        }
        if self.shared:
            self.shared_dir.mkdir(parents=True, exist_ok=True)
            sections["paths"]["shared_dir"] = str(self.shared_dir)
        for laid in (more, self.settings):
            for section, keys in laid.items():
                sections[section] = {**sections.get(section, {}), **keys}
        return write_toml(self.root / f"{name}.toml", sections)

    def is_healthy(self) -> bool:
        self.host.check_alive()
        try:
            return self.http("GET", "/healthz", token=None, timeout=10).status == 200
        except OSError:
            return False

    # Tasks.

    def submit_batch(
        self, *command: str, targets: Sequence[str] | None, cores: int = 1, **more: object
    ) -> Any:
        """Submit over HTTP and return the reply, which must say 202."""
        body: dict[str, object] = {"required_cores": cores, **more}
        if targets is not None:
            body["targets"] = list(targets)
        if command:
            body |= {"command": command[0], "arguments": list(command[1:])}
        reply = self.http("POST", "/api/submit", body=body)
        assert reply.status == 202, f"{reply.status} {reply.body!r}"
        return reply.json()

    def submit(self, *command: str, target: str = "node1", cores: int = 1, **more: object) -> str:
        """Submit one task and return its id."""
        reply = self.submit_batch(*command, targets=[target], cores=cores, **more)
        assert reply["failed_targets"] == []
        (task_id,) = reply["task_ids"]
        return str(task_id)

    def script(self, text: str, *, target: str = "node1", cores: int = 1, **more: object) -> str:
        """Submit a Python script for one target and return its id."""
        more = {"script": text, "interpreter": [sys.executable], **more}
        return self.submit(target=target, cores=cores, **more)

    def status(self, task_id: str) -> Any:
        return self.get(f"/api/status/{task_id}")

    def wait(self, task_id: str, *states: str, timeout: float = 60) -> Any:
        """Return the task once it is in one of `states`; without any, in a final one.

        To be lost is final for those alone who name no states: its node may tell otherwise.
        """
        wanted = set(states) or FINAL

        def there() -> Any:
            task = self.status(task_id)
            assert task["status"] not in FINAL - wanted - {"lost"}, task
            return task if task["status"] in wanted else None

        return wait_until(there, timeout=timeout, what=f"task {task_id} {wanted}")

    def run(self, *command: str, **more: Any) -> Any:
        """Submit one task and return it when it has ended."""
        return self.wait(self.submit(*command, **more))

    def unfinished(self) -> list[Any]:
        found: dict[str, Any] = {}
        # A task may move on between two requests and be in both answers, never in none.
        for state in ("pending", "assigning", "running"):
            tasks = self.get(f"/api/tasks?state={state}&limit=1000")["tasks"]
            found |= {task["task_id"]: task for task in tasks}
        return list(found.values())

    def all_tasks(self, **filters: str) -> list[Any]:
        """Return every task that fits, newest first, page by page."""
        found: list[Any] = []
        query = {"limit": "1000", **filters}
        while True:
            page = self.get(f"/api/tasks?{urlencode(query)}")
            found += page["tasks"]
            if not page.get("next_before"):
                return found
            query["before"] = page["next_before"]

    def output(self, task_id: str, stream: str = "stdout", query: str = "") -> bytes:
        reply = self.http("GET", f"/api/task/{task_id}/{stream}{query}")
        assert reply.status == 200, f"{reply.status} {reply.body!r}"
        return reply.body

    def text(self, task_id: str, stream: str = "stdout") -> str:
        return self.output(task_id, stream).decode()

    # The command line.

    def run_client(
        self,
        *args: str,
        stdin: bytes | None = None,
        check: int | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float = 60,
    ) -> subprocess.CompletedProcess[str]:
        """Run the client to its end; with `check`, fail on another exit code."""
        return run_hakuriver(
            *("client", "-c", str(self.config), *args),
            env={**self.env, **(env or {})},
            cwd=self.root,
            stdin=stdin,
            check=check,
            timeout=timeout,
        )

    def start_client(self, *args: str) -> subprocess.Popen[bytes]:
        """Start the client and leave it running; the cluster ends it."""
        process = subprocess.Popen(
            [sys.executable, "-m", "hakuriver", "client", "-c", str(self.config), *args],
            env=self.env,
            cwd=self.root,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._clients.append(process)
        return process

    def _end_clients(self) -> None:
        for process in self._clients:
            process.kill()
            process.communicate()
        self._clients.clear()

    def after_test(self) -> None:
        """Leave a shared cluster as the next test expects it: nothing runs, nothing is wrong."""
        self._end_clients()
        dead = [name for name, daemon in self._daemons() if not daemon.process]
        self.restart(*dead)
        assert not dead, f"left without {dead}"
        self.check_alive()
        for name in self.nodes:
            self.wait_online(name)
        self.kill_unfinished()
        self.check_logs()
        self._expected.clear()


def write_toml(path: Path, sections: Mapping[str, Mapping[str, object]]) -> Path:
    """Write a private configuration file of plain keys, and return its path."""
    lines: list[str] = []
    for section, keys in sections.items():
        lines.append(f"[{section}]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", "utf-8")
    path.chmod(0o600)
    return path
