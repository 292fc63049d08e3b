from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from support.processes import alive, resident_bytes, run_hakuriver, wait_until
from support.restarts import tick

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.harness import Cluster

MIB = 1 << 20
_CAPPED = {"runner": {"max_log_bytes": "8M"}}


def test_a_task_that_floods_its_log_is_ended_by_the_cap_of_its_node(
    make_cluster: Callable[..., Cluster],
) -> None:
    cluster = make_cluster(settings=_CAPPED)
    cluster.start()
    quiet = tick(cluster, cores=0)
    before = {name: resident_bytes(cluster.runners[name].pid) for name in cluster.nodes}
    for stream in ("stdout", "stderr"):
        redirection = "" if stream == "stdout" else " >&2"
        done = cluster.run("sh", "-c", f"echo $$; exec yes{redirection}", target="node2")
        assert done["status"] == "failed"
        assert f"log limit: its {stream} grew to" in done["reason"]
        assert "runner.max_log_bytes of its node is 8 MiB" in done["reason"]
        first, _, _ = Path(done["stdout_path"]).read_bytes()[:20].partition(b"\n")
        assert not alive(int(first))
        assert Path(done[f"{stream}_path"]).stat().st_size > 8 * MIB
    assert cluster.status(quiet.task_id)["status"] == "running"
    for name, size in before.items():
        assert resident_bytes(cluster.runners[name].pid) < size + 16 * MIB
    quiet.end()


def test_the_reason_is_told_though_the_runner_died_over_it(
    make_cluster: Callable[..., Cluster],
) -> None:
    cluster = make_cluster(settings=_CAPPED)
    cluster.start()
    task_id = cluster.submit("sh", "-c", "trap '' TERM; head -c 9M /dev/zero; sleep 60")
    journal = cluster.state_dir("node1") / "runner" / "node1" / "journal.ndjson"

    def noted() -> bool:
        # On a busy machine the task may have ended, and all of it be told, before we look.
        ended = cluster.status(task_id)["completed_at"]
        return b"log limit" in journal.read_bytes() or bool(ended)

    wait_until(noted, what="the cap is noted")
    cluster.kill("node1")
    cluster.restart("node1")
    done = cluster.wait(task_id)
    assert done["status"] == "failed"
    assert "log limit" in done["reason"]


def test_a_cap_that_is_no_size_is_refused_by_its_key(
    make_cluster: Callable[..., Cluster],
) -> None:
    cluster = make_cluster(settings={"runner": {"max_log_bytes": "lots"}})
    argv = cluster.runners["node1"].argv
    done = run_hakuriver(*argv, env=cluster.env, cwd=cluster.root)
    assert done.returncode == 2
    assert "runner.max_log_bytes" in done.stderr
    assert "lots" in done.stderr
