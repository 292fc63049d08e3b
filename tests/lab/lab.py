"""Two machines and a host: node1's runner is an ordinary user's, node2's is root's.

The host runs outside, on this machine's loopback address; inside, that is at `OUTSIDE`.
"""

from __future__ import annotations

import json
import shlex
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from hakuriver import Client
from lab.cache import Cache
from lab.image import build
from lab.machine import OUTSIDE, Machine
from support.harness import Cluster
from support.processes import check_no_leftovers, run_hakuriver, wait_until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future
    from pathlib import Path

UNIT = "hakuriver-runner.service"
#: Whose runner it is.
RUNNER_USER = {"node1": "haku", "node2": "root"}
#: Its configuration, as joining writes it.
CONFIG = {
    "node1": "/home/haku/.hakuriver/runner-node1.toml",
    "node2": "/root/.hakuriver/runner-node2.toml",
}
#: What is added to the line of `hakuriver token`, for each node.
JOIN_OPTIONS: dict[str, list[str]] = {
    "node1": ["--launcher", "service"],
    "node2": ["--launcher", "service", "--run-as-user", "worker"],
}

# The pasted line becomes a runner: as soon as it has written its file, a service takes its place.
_JOIN = """
setsid {line} < /dev/null > "$HOME/join.log" 2>&1 &
pid=$!
until [ -e {file} ]; do kill -0 $pid || {{ cat "$HOME/join.log" >&2; exit 1; }}; sleep 0.2; done
kill $pid
hakuriver.init service --runner -c {file} --output-dir "$HOME/units" > "$HOME/units.log"
"""


class Lab:
    """Everything that the tests need, in one folder; `close` ends all of it.

    `cluster` is the host and how to ask it; it has no runners of its own.
    """

    def __init__(self, root: Path, tell: Callable[[str], None]) -> None:
        self.root = root
        self.machines: dict[str, Machine] = {}
        self._tell = tell
        self._cache = Cache.default()
        self._client: Client | None = None
        self.shared = root / "shared"
        self.shared.mkdir(parents=True)
        # As on /tmp, everybody may put things there.
        self.shared.chmod(0o1777)
        # Each heartbeat is work for an emulated machine.
        timing = {"heartbeat_interval": 2.0, "heartbeat_timeout_factor": 10.0, "kill_grace": 5.0}
        self.cluster = Cluster(root / "outside", settings={"timing": timing})
        self.cluster.nodes, self.cluster.runners = {}, {}

    @property
    def node1(self) -> Machine:
        return self.machines["node1"]

    @property
    def node2(self) -> Machine:
        return self.machines["node2"]

    def start(self) -> None:
        """Build, boot and join; each machine joins as soon as it is up."""
        images = build(self._cache, self._tell)
        for name, image in images.items():
            self.machines[name] = Machine(name, image, self.root / name, self.shared)
        self._tell("booting both machines")
        for machine in self.machines.values():
            machine.boot(wait=False)
        self.cluster.start_host()
        words = {name: self.join_words(name) for name in self.machines}
        with ThreadPoolExecutor(len(self.machines)) as pool:
            joining: list[Future[None]] = []
            for machine in self.machines.values():
                machine.wait_up()
                self._tell(f"{machine.name} is up")
                joining.append(pool.submit(self.join, machine.name, words[machine.name]))
            for joined in joining:
                joined.result()
        for name in self.machines:
            self.wait_online(name)
            self._tell(f"{name} is online")

    def join(self, name: str, words: Sequence[str]) -> None:
        """Make the machine a node by what `join_words` says, as a service that starts with it."""
        user = RUNNER_USER[name]
        home = "/root" if user == "root" else f"/home/{user}"
        machine = self.machines[name]
        line = shlex.join([*words, *JOIN_OPTIONS[name]])
        machine.run(_JOIN.format(line=line, file=CONFIG[name]), user=user)
        machine.run(f"cp {home}/units/{UNIT} /etc/systemd/system/ && systemctl enable --now {UNIT}")

    def join_words(self, name: str) -> list[str]:
        """Return what `hakuriver token` prints for a node, with the address that it sees."""
        done = run_hakuriver(
            *("token", "--node", name, "-c", str(self.cluster.config), "--json"),
            env={**self.cluster.env, "HAKURIVER_NETWORK_HOST_REACHABLE_ADDRESS": OUTSIDE},
            cwd=self.root,
            check=0,
        )
        return shlex.split(str(json.loads(done.stdout)["command"]))

    def wait_online(self, name: str, *, timeout: float = 180) -> None:
        """Wait until the host says that the node is online."""
        try:
            wait_until(
                lambda: self.cluster.node_status(name) == "online",
                timeout=timeout,
                interval=0.1,
                what=f"{name} online",
            )
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.runner_log(name)}") from None

    def runner_log(self, name: str) -> str:
        """Return the end of what the runner's service has logged since the machine's boot."""
        command = f"systemctl status --no-pager -n 40 {UNIT}"
        return self.machines[name].run(command, check=False).stdout

    # The host.

    @property
    def url(self) -> str:
        """Where the host is, for the outside."""
        return f"http://127.0.0.1:{self.cluster.port}"

    @property
    def token(self) -> str:
        return self.cluster.token

    @property
    def client(self) -> Client:
        """A client of the host, closed with the lab."""
        if self._client is None:
            self._client = Client(self.url, token=self.token)
        return self._client

    def run_client(self, *args: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run the command-line client outside; takes the options of `Cluster.run_client`."""
        return self.cluster.run_client(*args, **options)

    def start_host(self) -> None:
        self.cluster.start_host()

    def stop_host(self) -> None:
        """End the host by SIGTERM."""
        self.cluster.host.stop()

    def kill_host(self) -> None:
        """End the host by SIGKILL."""
        self.cluster.kill("host")

    # The end.

    def settle(self) -> None:
        """Leave the lab as the next test expects it: all on, no task running, no trouble logged."""
        for machine in self.machines.values():
            machine.check_alive()
        if self.cluster.host.process is None:
            self.cluster.start_host()
        for name in self.machines:
            # Less than an interrupted suite has before it is killed.
            self.wait_online(name, timeout=40)
        self._kill_unfinished()
        self.cluster.after_test()

    def close(self) -> None:
        """End all that was started; fail if something stays behind."""
        steps: list[Callable[[], object]] = [self._close_client, self._kill_unfinished]
        steps += [machine.close for machine in self.machines.values()]
        steps += [self.cluster.stop, self._cache.release, lambda: check_no_leftovers(self.root)]
        troubles: list[str] = []
        for step in steps:
            try:
                step()
            except (AssertionError, OSError) as error:
                troubles.append(str(error))
        assert not troubles, "\n".join(troubles)

    def _close_client(self) -> None:
        if self._client is not None:
            self._client.close()

    def _kill_unfinished(self) -> None:
        """Kill what has not ended; give it the time that a machine under emulation takes."""
        cluster = self.cluster
        if cluster.host.process is None:
            return
        left = cluster.unfinished()
        if not left:
            return
        for task in left:
            cluster.http("POST", f"/api/kill/{task['task_id']}")
        wait_until(lambda: not cluster.unfinished(), timeout=30, interval=0.2, what="tasks ended")
