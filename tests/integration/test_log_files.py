from __future__ import annotations

import secrets
import stat
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import pytest

from support.harness import check_one_line
from support.processes import run_hakuriver, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.harness import Cluster

KEYS = {"host": "host_log_file", "runner": "runner_log_file"}


@pytest.fixture
def logging_cluster(make_cluster: Callable[..., Cluster], tmp_path: Path) -> Cluster:
    """One node; host and runner write their logs to ``host.log`` and ``runner.log`` there."""
    paths = {key: str(tmp_path / "logs" / f"{role}.log") for role, key in KEYS.items()}
    (tmp_path / "logs").mkdir()
    return make_cluster(nodes={"node1": "0"}, settings={"paths": paths})


def _argv(cluster: Cluster, role: str) -> list[str]:
    daemon = cluster.host if role == "host" else cluster.runners["node1"]
    return list(daemon.argv)


def _has_lines(path: Path, lines: list[str]) -> bool:
    return set(lines) <= set(path.read_text("utf-8").splitlines())


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_each_daemon_writes_its_log_to_its_file_as_well_as_to_stderr(
    logging_cluster: Cluster, tmp_path: Path
) -> None:
    cluster = logging_cluster
    cluster.start()
    daemons = {"host": cluster.host, "runner": cluster.runners["node1"]}
    for role, daemon in daemons.items():
        path = tmp_path / "logs" / f"{role}.log"
        lines = daemon.text().splitlines()
        assert lines, "the daemon says nothing when it starts"
        wait_until(partial(_has_lines, path, lines), what=f"{path} has the lines {lines}")
        assert _mode(path) == 0o600
    host, runner = (tmp_path / "logs" / f"{role}.log" for role in daemons)
    # The node is online a moment before the host says so.
    wait_until(lambda: "node1" in host.read_text("utf-8"), what="the host's word on its node")
    assert host.read_text("utf-8") != runner.read_text("utf-8")


def test_a_log_file_is_written_to_its_end_before_the_daemon_ends(
    logging_cluster: Cluster, tmp_path: Path
) -> None:
    cluster = logging_cluster
    cluster.start()
    runner = cluster.runners["node1"]
    cluster.host.stop()
    runner.stop()
    for daemon, name in ((cluster.host, "host.log"), (runner, "runner.log")):
        written = (tmp_path / "logs" / name).read_text("utf-8").splitlines()
        assert written == daemon.text().splitlines()


def test_a_log_file_goes_on_after_a_restart(logging_cluster: Cluster, tmp_path: Path) -> None:
    cluster = logging_cluster
    path = tmp_path / "logs" / "host.log"
    path.write_text("from before\n", "utf-8")
    path.chmod(0o644)
    for _ in range(2):
        before = len(path.read_text("utf-8"))
        cluster.start_host()
        cluster.host.stop()
        text = path.read_text("utf-8")
        assert text.startswith("from before\n")
        assert len(text) > before
    assert _mode(path) == 0o600


def test_a_log_file_is_rotated_and_three_old_ones_are_kept(
    logging_cluster: Cluster, tmp_path: Path
) -> None:
    logs = tmp_path / "logs"
    for number, name in enumerate(["host.log", "host.log.1", "host.log.2", "host.log.3"]):
        (logs / name).write_text(f"{number}\n" + "x" * 10_000_000, "utf-8")
    logging_cluster.start_host()

    # While the files are being renamed there is no host.log for a moment.
    def fresh() -> bool:
        with suppress(FileNotFoundError):
            return (logs / "host.log").stat().st_size < 1_000_000
        return False

    wait_until(fresh, what="a fresh log file")
    logging_cluster.host.stop()
    assert {path.name for path in logs.iterdir()} == {
        *("host.log", "host.log.1", "host.log.2", "host.log.3")
    }
    for number in (1, 2, 3):
        with (logs / f"host.log.{number}").open("rb") as old:
            assert old.readline() == b"%d\n" % (number - 1)
    assert _mode(logs / "host.log") == 0o600


@pytest.mark.parametrize("role", KEYS)
@pytest.mark.parametrize("kind", ["folder", "below a file", "no such folder"])
def test_a_log_file_that_cannot_be_written_is_told_by_key_and_path(
    make_cluster: Callable[..., Cluster], tmp_path: Path, role: str, kind: str
) -> None:
    path = tmp_path / "place"
    if kind == "folder":
        path.mkdir()
    elif kind == "below a file":
        path.write_text("", "utf-8")
        path = path / "the.log"
    else:
        path = path / "nowhere" / "the.log"
    cluster = make_cluster(nodes={"node1": "0"}, settings={"paths": {KEYS[role]: str(path)}})
    if kind == "no such folder":
        _check_made_or_told(cluster, role, path)
        return
    done = run_hakuriver(*_argv(cluster, role), env=cluster.env, cwd=cluster.root)
    assert done.returncode not in {0, -9}
    check_one_line(done.stderr, KEYS[role], str(path))
    assert done.stdout == ""


def _check_made_or_told(cluster: Cluster, role: str, path: Path) -> None:
    """Fail unless a daemon that shall log into a missing folder makes it, private, or says why."""
    daemon = cluster.host if role == "host" else cluster.runners["node1"]
    daemon.start()
    process = daemon.process
    assert process is not None
    wait_until(lambda: path.exists() or process.poll() is not None, what=f"{path} or an error")
    if process.poll() is None:
        # It may not listen yet, so that nobody can ask it what still runs.
        daemon.stop()
    if path.exists():
        assert _mode(path) == 0o600
        assert _mode(path.parent) & 0o077 == 0
        return
    assert process.returncode != 0
    daemon.process = None
    check_one_line(daemon.text(), KEYS[role], str(path))


def test_the_other_daemons_do_not_touch_a_log_file_that_is_not_theirs(
    make_cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    path = tmp_path / "only-the-hosts.log"
    cluster = make_cluster(nodes={"node1": "0"}, settings={"paths": {"host_log_file": str(path)}})
    cluster.start_runner("node1")
    wait_until(cluster.runners["node1"].text, what="the runner's first words")
    cluster.run_client("--list-nodes")
    assert not path.exists()
    cluster.start_host()
    assert path.exists()


def test_secrets_are_in_no_log_file(logging_cluster: Cluster, tmp_path: Path) -> None:
    cluster = logging_cluster
    cluster.start()
    value = secrets.token_hex(16)
    cluster.run("true", env_vars={"SECRET": value})
    cluster.run("/nosuch/program", env_vars={"SECRET": value})
    cluster.http("POST", "/api/submit", body={"command": "true", "env_vars": {"1X": value}})
    cluster.http("GET", "/api/nodes", token=value)
    for name in ("host.log", "runner.log"):
        text = (tmp_path / "logs" / name).read_text("utf-8")
        for secret in (value, cluster.token, cluster.second_token, cluster.runner_secret):
            assert secret not in text, name
