from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.harness import check_one_line, write_toml
from support.processes import clean_environment, free_port, run_hakuriver

if TYPE_CHECKING:
    from pathlib import Path

    from support.harness import Cluster


@pytest.mark.parametrize("args", [["--list-nodes"], ["--status", "123"], ["--wait", "--", "true"]])
def test_a_host_that_is_not_there_is_told_with_its_address(tmp_path: Path, args: list[str]) -> None:
    port = free_port()
    config = write_toml(
        tmp_path / "config.toml",
        {"network": {"host_port": port}, "security.tokens": {"default": "x" * 32}},
    )
    env = clean_environment(tmp_path / "home")
    done = run_hakuriver("client", "-c", str(config), *args, env=env, cwd=tmp_path)
    assert done.returncode not in {0, 2}
    assert done.stdout == ""
    check_one_line(done.stderr, f"127.0.0.1:{port}")


def test_a_client_that_knows_no_host_is_told_how_to_get_one(tmp_path: Path) -> None:
    env = clean_environment(tmp_path / "home")
    done = run_hakuriver("client", "--list-nodes", env=env, cwd=tmp_path)
    assert done.returncode != 0
    check_one_line(done.stderr, "hakuriver up")


@pytest.mark.parametrize("runtime_dir", [None, "nowhere", "open"])
def test_a_runtime_directory_that_is_not_usable_is_no_matter(
    cluster: Cluster, tmp_path: Path, runtime_dir: str | None
) -> None:
    env = {name: value for name, value in cluster.env.items() if name != "XDG_RUNTIME_DIR"}
    (tmp_path / "open").mkdir(mode=0o755)
    if runtime_dir:
        env["XDG_RUNTIME_DIR"] = str(tmp_path / runtime_dir)
    command = ("client", "-c", str(cluster.config), "--list-nodes", "--json")
    done = run_hakuriver(*command, env=env, cwd=tmp_path, check=0)
    assert done.stderr == ""


@pytest.mark.parametrize("args", [["--status"], ["--logs"], ["--logs", "--follow"]])
@pytest.mark.parametrize("task_id", ["12345", "abc"])
def test_an_unknown_task_is_told_with_its_id(
    cluster: Cluster, args: list[str], task_id: str
) -> None:
    done = cluster.run_client(args[0], task_id, *args[1:])
    assert done.returncode != 0
    assert done.stdout == ""
    assert task_id in done.stderr


def test_status_shows_a_task_in_words(cluster: Cluster) -> None:
    task = cluster.run("sh", "-c", "exit 3", name="a name")
    shown = cluster.run_client("--status", task["task_id"], check=0).stdout
    for word in (task["task_id"], "failed", "node1", "3", "a name"):
        assert word in shown


def test_list_tasks_is_a_table_with_a_line_for_each(cluster: Cluster) -> None:
    task = cluster.run("true", name="in-the-table")
    shown = cluster.run_client("--list-tasks", "--limit", "5", check=0).stdout
    (line,) = [line for line in shown.splitlines() if task["task_id"] in line]
    for word in ("completed", "node1", "in-the-table"):
        assert word in line


def test_a_task_name_cannot_write_on_the_terminal(cluster: Cluster) -> None:
    task = cluster.run("true", "\x1b]0;title\x07", name="\x1b[31mred\nline")
    for args in (["--list-tasks"], ["--status", task["task_id"]]):
        shown = cluster.run_client(*args, check=0).stdout
        assert "\x1b" not in shown
        assert "\x07" not in shown
