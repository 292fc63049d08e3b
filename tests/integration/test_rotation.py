from __future__ import annotations

import shlex
import tomllib
from typing import TYPE_CHECKING

from hakuriver.model.auth import runner_token
from support.processes import Daemon, clean_environment, proc_bytes, run_hakuriver, wait_until
from support.restarts import remove_database, tick

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.harness import Cluster


def _token_command(cluster: Cluster, *args: str) -> str:
    """Run ``hakuriver token`` with the host's own file."""
    config = str(cluster.root / "host.toml")
    done = run_hakuriver("token", "-c", config, *args, env=cluster.env, cwd=cluster.root, check=0)
    return done.stdout.strip()


def _restart_host(cluster: Cluster) -> None:
    cluster.host.stop()
    cluster.host.start()
    wait_until(cluster.is_healthy, what="the host")


def test_an_old_token_and_its_sessions_end_with_the_restart(fresh_cluster: Cluster) -> None:
    cluster, old = fresh_cluster, fresh_cluster.token
    ticking = tick(cluster)
    follower = cluster.start_client("--logs", ticking.task_id, "--follow")
    wait_until(lambda: ticking.log.stat().st_size > 100)
    fresh = _token_command(cluster, "--rotate", "default")
    # Until then the host goes by what it has read.
    assert cluster.http("GET", "/api/nodes", token=old).status == 200
    assert cluster.http("GET", "/api/nodes", token=fresh).status == 401
    _restart_host(cluster)
    cluster.token = fresh
    assert cluster.http("GET", "/api/nodes", token=old).status == 401
    _, err = follower.communicate(timeout=60)
    assert follower.returncode not in {0, -9}
    assert b"token" in err
    assert old.encode() not in err
    # The other token, and the tasks, know nothing of it.
    assert cluster.http("GET", "/api/nodes", token=cluster.second_token).status == 200
    cluster.wait_online("node1")
    assert cluster.status(ticking.task_id)["status"] == "running"
    ticking.end()
    cluster.wait(ticking.task_id)
    for log in (cluster.host, *cluster.runners.values()):
        assert fresh not in log.text()
        assert old not in log.text()
        assert fresh.encode() not in proc_bytes(log.pid, "cmdline")


def test_nodes_join_anew_after_the_runner_secret_was_replaced(
    make_cluster: Callable[..., Cluster],
) -> None:
    cluster = make_cluster(nodes={"node1": "0"})
    cluster.start_host()
    home = cluster.root / "n3" / "home"
    config = home / ".hakuriver" / "runner-n3.toml"
    runner = cluster.runners["n3"] = Daemon(
        argv=["runner", *shlex.split(_token_command(cluster, "--node", "n3"))[1:]],
        env=clean_environment(home),
        cwd=cluster.root / "n3" / "cwd",
        log=cluster.root / "n3.log",
    )
    cluster.start_runner("n3")
    cluster.wait_online("n3")
    ticking = tick(cluster, target="n3", code=4)
    before = config.read_text()
    _token_command(cluster, "--rotate-runners")
    _restart_host(cluster)
    wait_until(lambda: "does not accept this node's token" in runner.text())
    assert cluster.node_status("n3") == "offline"
    cluster.kill("n3")
    runner.argv = ["runner", *shlex.split(_token_command(cluster, "--node", "n3"))[1:]]
    cluster.start_runner("n3")
    cluster.wait_online("n3")
    security = tomllib.loads((cluster.root / "host.toml").read_text())["security"]
    old, new = (
        runner_token(each, "n3") for each in (cluster.runner_secret, security["runner_secret"])
    )
    assert config.read_text() == before.replace(old, new)
    cluster.wait(ticking.task_id, "running")
    # By security.cluster_id it is the same cluster, also for a host that knows nothing any more.
    cluster.kill("host")
    remove_database(cluster)
    cluster.start_host()
    cluster.wait_online("n3")
    cluster.wait(ticking.task_id, "running")
    ticking.end()
    assert cluster.wait(ticking.task_id)["exit_code"] == 4
    # The old secret's tokens speak for nobody.
    path = "/api/runner/check?name=n3"
    assert cluster.http("GET", path, token=old).status == 401
    assert cluster.http("GET", path, token=new).status == 200
