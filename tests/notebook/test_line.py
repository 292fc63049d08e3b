"""The line magic, in a real kernel with a real cluster."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.kernels import Kernel


@pytest.fixture
def done(kernel: Kernel) -> str:
    """The id of a task that wrote to both streams and completed."""
    kernel.run(
        "%%hakuriver --name sample --out sample\n"
        "import sys\nfor n in range(5): print('out', n)\nprint('err', file=sys.stderr)"
    )
    return kernel.run("print(sample.task_id)").stdout.strip()


@pytest.fixture
def second_kernel(kernel: Kernel) -> Iterator[Kernel]:
    """The same kernel without the extension, which is loaded again afterwards."""
    kernel.run("%unload_ext hakuriver")
    yield kernel
    kernel.run("%reload_ext hakuriver\n%hakuriver up")


def test_nodes_are_a_table(kernel: Kernel) -> None:
    shown = kernel.run("%hakuriver nodes")
    for form in ("text/plain", "text/html"):
        for word in ("node1", "node2", "online"):
            assert word in shown.result[form]
    assert "<table" in shown.result["text/html"]


def test_a_line_can_be_a_value(kernel: Kernel) -> None:
    shown = kernel.run("nodes = %hakuriver nodes\nprint(nodes)")
    assert "node1" in shown.stdout
    assert not shown.result


def test_tasks_are_a_table_newest_first(kernel: Kernel, done: str) -> None:
    shown = kernel.run("%hakuriver tasks --limit 1")
    assert done in shown.result["text/plain"]
    assert "sample" in shown.result["text/html"]
    assert done not in kernel.run("%hakuriver tasks --state failed").result["text/plain"]


def test_the_status_of_a_task(kernel: Kernel, done: str) -> None:
    shown = kernel.run(f"%hakuriver status {done}")
    assert "completed" in shown.result["text/plain"]
    assert "completed" in shown.result["text/html"]
    assert kernel.run("%hakuriver status {sample.task_id}").result == shown.result


def test_the_logs_of_a_task(kernel: Kernel, done: str) -> None:
    whole = "".join(f"out {n}\n" for n in range(5))
    assert kernel.run(f"%hakuriver logs {done}").stdout == whole
    assert kernel.run(f"%hakuriver logs {done} --tail 1").stdout == "out 4\n"
    assert kernel.run(f"%hakuriver logs {done} --stderr").stdout == "err\n"


def test_a_task_is_killed(kernel: Kernel) -> None:
    kernel.run("from hakuriver import Client\nlong = Client().run(['sleep', '600'])")
    assert kernel.run("%hakuriver kill {long.task_id}").stdout
    shown = kernel.run("type(long.exception(20)).__name__")
    assert shown.result["text/plain"] == "'TaskKilled'"


def test_errors_are_one_line(kernel: Kernel, done: str) -> None:
    for line, name in ((f"kill {done}", "Conflict"), ("status 12", "NotFound")):
        shown = kernel.run(f"%hakuriver {line}", ok=False)
        assert shown.error_name == name
        assert len(shown.error.splitlines()) == 1, shown.error
    for line in ("", "nosuch", "status", "logs 1 --tail x", "up --nodes 0"):
        shown = kernel.run(f"%hakuriver {line}", ok=False)
        assert re.fullmatch(r"UsageError: %hakuriver.*\n", shown.stderr), shown


def test_up_again_finds_the_same_cluster_and_keeps_futures(kernel: Kernel) -> None:
    kernel.run("%%hakuriver --out kept\nprint()")
    shown = kernel.run("%hakuriver up")
    assert "up already" in shown.stdout
    assert kernel.run("kept.status().status.value").result["text/plain"] == "'completed'"


def test_a_connection_is_kept_if_the_new_one_fails(kernel: Kernel) -> None:
    kernel.run("from hakuriver.client.endpoint import embedded_endpoint as e\nurl, token = e()")
    shown = kernel.run("%hakuriver connect {url} --token wrong", ok=False)
    assert shown.error_name == "Unauthorized"
    assert len(shown.error.splitlines()) == 1
    shown = kernel.run("%hakuriver connect http://127.0.0.1:1 --token x", ok=False)
    assert shown.error_name == "HostUnreachable"
    assert "node1" in kernel.run("%hakuriver nodes").result["text/plain"]


def test_connect_takes_the_token_from_a_file(kernel: Kernel) -> None:
    kernel.run(
        "from hakuriver.client.endpoint import embedded_endpoint as e\nurl, token = e()\n"
        "from pathlib import Path\nPath('token').write_text(token)"
    )
    shown = kernel.run("%hakuriver connect {url} --token-file token")
    assert "node1, node2" in shown.stdout
    assert "node1" in kernel.run("%hakuriver nodes").result["text/plain"]
    shown = kernel.run("%hakuriver connect {url} --token-file nosuch", ok=False)
    assert "nosuch" in shown.error


def test_help_is_printed(kernel: Kernel) -> None:
    assert "--target" in kernel.run("%%hakuriver --help\nprint()").stdout
    assert "connect" in kernel.run("%hakuriver --help").stdout


def test_unload_takes_the_magics_away(second_kernel: Kernel) -> None:
    shown = second_kernel.run("%hakuriver nodes", ok=False)
    assert "not found" in shown.stderr
    shown = second_kernel.run("%%hakuriver\nprint()", ok=False)
    assert "not found" in shown.stderr


def test_a_drained_node_gets_no_tasks_until_it_is_resumed(kernel: Kernel) -> None:
    try:
        shown = kernel.run("%hakuriver drain node2")
        assert shown.stdout == ("node2 gets no new tasks until %hakuriver resume node2\n")
        assert "draining" in kernel.run("%hakuriver nodes").result["text/plain"]
        refused = kernel.run("%%hakuriver --target node2\nprint()", ok=False)
        assert refused.error_name == "SubmissionRefused"
        assert "draining" in refused.error
    finally:
        assert kernel.run("%hakuriver resume node2").stdout == "node2 gets new tasks again\n"
    assert kernel.run("%%hakuriver --target node2\nprint(1)").stdout == "1\n"


def test_a_node_that_answers_is_not_forgotten(kernel: Kernel) -> None:
    for line, name in (("forget node1", "Conflict"), ("drain nosuch", "NotFound")):
        shown = kernel.run(f"%hakuriver {line}", ok=False)
        assert shown.error_name == name
        assert len(shown.error.splitlines()) == 1, shown.error


def test_a_batch_is_killed(kernel: Kernel) -> None:
    kernel.run("long = %hakuriver submit -t node1 -t node2 -- sleep 600")
    assert kernel.run("%hakuriver kill-batch {long.batch_id}").stdout
    shown = kernel.run("%hakuriver wait", ok=False)
    assert shown.error_name == "TaskKilled"
    assert "2 tasks: 2 killed" in shown.status


def test_a_task_runs_again_with_its_variables(kernel: Kernel) -> None:
    kernel.run("%%hakuriver --shell -t node1 --env WORD=old\necho $WORD")
    shown = kernel.run("first = %hakuriver last\n%hakuriver rerun {first.task_id}", ok=False)
    assert shown.error_name == "InvalidRequest"
    assert "give them again" in shown.error
    shown = kernel.run("%hakuriver rerun {first.task_id} --env WORD=new")
    assert shown.result["text/plain"].startswith("<Task ")
    shown = kernel.run("again = %hakuriver last\n%hakuriver attach {again.task_id}")
    assert shown.stdout == "new\n"
    shown = kernel.run("again.status().retry_of == first.task_id")
    assert shown.result["text/plain"] == "True"


def test_my_own_tasks_are_listed(kernel: Kernel, done: str) -> None:
    assert done in kernel.run("%hakuriver tasks --mine").result["text/plain"]
