from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hakuriver.model.tasks import FINAL, LEGAL, TOLD, TaskSpec, TaskState, sources_of

STATES = list(TaskState)


def test_every_state_says_what_may_follow() -> None:
    assert set(LEGAL) == set(STATES)


@pytest.mark.parametrize("before", STATES)
@pytest.mark.parametrize("after", STATES)
def test_the_sources_are_the_legal_moves_seen_from_their_end(
    before: TaskState, after: TaskState
) -> None:
    assert (before in sources_of(after)) == (after in LEGAL[before])


@pytest.mark.parametrize("state", sorted(TOLD))
def test_what_a_node_told_as_an_end_is_left_for_nothing(state: TaskState) -> None:
    assert LEGAL[state] == frozenset()


def test_only_a_nodes_own_word_replaces_lost() -> None:
    assert LEGAL[TaskState.LOST] == {TaskState.RUNNING} | TOLD


def test_nothing_goes_back_into_the_queue_and_nothing_stays_where_it_is() -> None:
    assert sources_of(TaskState.PENDING) == frozenset()
    assert not [state for state in STATES if state in LEGAL[state]]


def test_a_pending_task_runs_only_after_it_was_assigned() -> None:
    assert TaskState.RUNNING not in LEGAL[TaskState.PENDING]
    assert TaskState.LOST not in LEGAL[TaskState.PENDING]


@given(st.lists(st.sampled_from(STATES), max_size=40))
def test_a_walk_ends_at_the_first_end_that_was_told(wishes: list[TaskState]) -> None:
    state, ended = TaskState.PENDING, None
    for wish in wishes:
        if wish in LEGAL[state]:
            assert ended is None
            state = wish
            ended = state if state in TOLD else None
    assert (state in FINAL) == (ended is not None or state is TaskState.LOST)


def test_a_spec_refuses_what_it_does_not_know() -> None:
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        msgspec.json.decode(b'{"command": "true", "shell": true}', type=TaskSpec)
