from __future__ import annotations

from typing import TYPE_CHECKING

from support.harness import check_one_line
from support.processes import free_port, run_hakuriver
from support.restarts import database

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from support.harness import Cluster


def _second(cluster: Cluster) -> subprocess.CompletedProcess[str]:
    """Run another host on the same database, but for the port with the same settings."""
    env = {**cluster.env, "HAKURIVER_NETWORK_HOST_PORT": str(free_port())}
    return run_hakuriver(*cluster.host.argv, env=env, cwd=cluster.root)


def test_a_second_host_on_one_database_is_refused_and_names_the_first(
    fresh_cluster: Cluster,
) -> None:
    done = _second(fresh_cluster)
    assert done.returncode not in {0, -9}
    check_one_line(done.stderr, str(fresh_cluster.host.pid), str(database(fresh_cluster)))
    fresh_cluster.host.check_alive()
    assert fresh_cluster.run("true")["status"] == "completed"


def test_a_database_is_found_taken_through_another_path(
    make_cluster: Callable[..., Cluster],
) -> None:
    cluster = make_cluster()
    cluster.start_host()
    link = cluster.root / "link.db"
    link.symlink_to(database(cluster))
    other = make_cluster(settings={"database": {"db_file": str(link)}})
    argv = other.host.argv
    done = run_hakuriver(*argv, env=other.env, cwd=other.root)
    assert done.returncode not in {0, -9}
    check_one_line(done.stderr, str(cluster.host.pid))


def test_the_lock_of_a_host_that_was_killed_holds_nobody_up(fresh_cluster: Cluster) -> None:
    first = fresh_cluster.host.pid
    fresh_cluster.kill("host")
    fresh_cluster.restart("host")
    assert fresh_cluster.host.pid != first
    done = _second(fresh_cluster)
    check_one_line(done.stderr, str(fresh_cluster.host.pid))
