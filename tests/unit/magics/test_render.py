from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hakuriver.cli.shared.tables import Table
from hakuriver.model.tasks import TaskState
from hakuriver.model.views import FailedTarget
from jupyter_ext.magics.render import note_line, result_words, shorten, status_line, table, worst
from support.task_views import ended, view


def test_a_running_task() -> None:
    assert status_line([view()]).text == "● task 7 · node1 · running"


def test_a_bound_task_tells_its_numa_node() -> None:
    assert "· node1:1 ·" in status_line([view(target_numa_node_id=1)]).text


def test_a_pending_task_says_what_it_waits_for() -> None:
    waiting = view(TaskState.PENDING, assigned_node=None, reason="needs 4 cores, 1 is free")
    assert status_line([waiting]).text == "○ task 7 · waiting: needs 4 cores, 1 is free"


def test_a_completed_task_says_how_long_it_took() -> None:
    line = status_line([ended(TaskState.COMPLETED, exit_code=0)])
    assert line.text == "✓ task 7 · node1 · completed in 1.2 s"


def test_a_failed_task_says_why() -> None:
    line = status_line([ended(TaskState.FAILED, exit_code=4)])
    assert line.text == "✗ task 7 · node1 · failed after 1.2 s: exit code 4"
    assert result_words(view(TaskState.FAILED, exit_code=127, reason="no such program")) == (
        "failed: exit code 127, no such program"
    )


def test_a_note_stands_at_the_end() -> None:
    line = status_line([ended(TaskState.KILLED)], note="interrupted")
    assert line.text.endswith(" · killed after 1.2 s · interrupted")


def test_several_tasks_are_summed_up_while_they_run() -> None:
    line = status_line([view(), ended(TaskState.COMPLETED, task_id="8")])
    assert line.text == "● batch 6 · 2 tasks: 1 running, 1 completed"


def test_several_tasks_are_told_one_by_one_at_the_end_failures_first() -> None:
    line = status_line(
        [
            ended(TaskState.COMPLETED, exit_code=0),
            ended(TaskState.FAILED, task_id="8", assigned_node="node2", exit_code=3),
        ]
    )
    assert line.text == (
        "✗ batch 6 · 2 tasks: 1 completed, 1 failed · node2 ✗ exit code 3 · node1 ✓ 1.2 s"
    )


def test_tasks_of_several_batches_are_told_together() -> None:
    line = status_line([view(), view(task_id="8", batch_id="9")])
    assert line.text == "● 2 tasks: 2 running"


def test_a_refused_target_is_told_with_its_reason() -> None:
    line = status_line(
        [ended(TaskState.COMPLETED, exit_code=0)], refused=[FailedTarget("node9", "no such node")]
    )
    assert line.text.startswith("✗ batch 6 · 1 task: 1 completed, 1 refused")
    assert line.text.endswith("node9 refused: no such node")


def test_a_large_batch_stays_one_line() -> None:
    line = status_line([ended(TaskState.FAILED, task_id=str(n), exit_code=1) for n in range(500)])
    assert "and 488 more" in line.text
    assert len(line.text) < 500


@given(st.lists(st.sampled_from(TaskState), min_size=1))
def test_the_worst_state_is_one_of_those_given(states: list[TaskState]) -> None:
    assert worst(states) in states


def test_what_comes_from_elsewhere_is_escaped() -> None:
    evil = '<img src=x onerror="alert(1)">'
    rendered = [
        status_line([view(TaskState.PENDING, reason=evil, assigned_node=evil)], note=evil),
        status_line([ended(TaskState.FAILED, reason=evil)], refused=[FailedTarget(evil, evil)]),
        note_line(evil),
        table(Table((evil,), ((evil,),))),
    ]
    for one in rendered:
        bundle = one._repr_mimebundle_()
        assert "<img" not in bundle["text/html"]
        assert "&lt;img" in bundle["text/html"]
        assert evil in bundle["text/plain"]
        assert repr(one) == bundle["text/plain"]


def test_a_row_is_one_line_of_bounded_width() -> None:
    long = f"python -c '{'x' * 5000}' n=6"
    shown = table(Table(("task", "command"), (("7", long), ("8", "two\nlines"))))
    for form in (shown.text, shown.html):
        assert "two\\nlines" in form
        assert "n=6" in form
        assert "x" * 80 not in form
    assert shown.html.count('white-space: pre"') == 6


def test_a_list_of_names_and_values_is_whole_and_wraps() -> None:
    shown = table(Table((), (("command", "x" * 5000),)))
    assert "x" * 5000 in shown.html
    assert "white-space: pre-wrap; overflow-wrap: anywhere" in shown.html


@pytest.mark.parametrize("width", range(1, 8))
def test_what_is_shortened_keeps_both_ends(width: int) -> None:
    short = shorten("abcdef", width)
    assert len(short) == min(width, 6)
    assert short == "abcdef" or (width < 3 or (short[0], short[-1]) == ("a", "f"))


def test_a_table_aligns_numbers_and_colours_states() -> None:
    html = table(Table(("node", "cores"), (("node1", "4"), ("online", "2")), frozenset({1}))).html
    assert '<th style="text-align: right; white-space: pre">cores</th>' in html
    assert '<td style="text-align: right; white-space: pre">4</td>' in html
    assert "color: var(--jp-success-color1" in html
