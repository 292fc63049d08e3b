from __future__ import annotations

import json
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hakuriver.model.auth import cluster_id, runner_token
from hakuriver.model.tasks import TaskState
from hakuriver.model.views import (
    Event,
    LogLine,
    LogNews,
    StreamLine,
    TaskResult,
    from_iso,
    to_iso,
)


@given(st.floats(0, 4e9))
def test_times_survive_to_the_microsecond(moment: float) -> None:
    text = to_iso(moment)
    assert text is not None
    assert from_iso(text) == pytest.approx(moment, abs=1e-6)
    assert text.endswith("+00:00")
    assert datetime.fromisoformat(text).tzinfo == UTC


@given(st.floats(-1e10, 1e11) | st.integers(0, 1 << 36).map(float))
def test_times_are_written_as_python_writes_them(moment: float) -> None:
    assert to_iso(moment) == datetime.fromtimestamp(moment, UTC).isoformat()


def test_no_time_stays_none() -> None:
    assert to_iso(None) is None
    assert from_iso(None) is None


@pytest.mark.parametrize(
    ("begin", "end", "seconds"),
    [(1.0, 3.5, 2.5), (None, 3.5, None), (1.0, None, None), (3.0, 1.0, 0.0)],
)
def test_how_long_a_task_ran(begin: float | None, end: float | None, seconds: float | None) -> None:
    result = TaskResult(
        task_id="1",
        target="n",
        status=TaskState.COMPLETED,
        exit_code=0,
        reason=None,
        started_at=begin,
        completed_at=end,
    )
    assert result.seconds == seconds


def test_a_sign_of_life_is_an_empty_line() -> None:
    assert LogLine() == LogLine(offset=None, data=None)


def test_a_runners_token_speaks_for_one_node_of_one_host() -> None:
    tokens = {runner_token(secret, node) for secret in ("s", "t") for node in ("a", "b", "a:b")}
    assert len(tokens) == 6
    assert all(len(token) == 64 for token in tokens)


def test_a_databases_cluster_follows_from_the_secret_alone() -> None:
    assert cluster_id("s") == cluster_id("s") != cluster_id("t")
    # It is shown to everybody, and tells nothing of the secret or of any node's token.
    assert cluster_id("s") not in runner_token("s", "cluster")
    assert len(cluster_id("s")) == 32


def test_a_log_line_in_a_stream_says_whose_it_is() -> None:
    news = LogNews(id="7", stream="stderr", offset=0, data="x")
    encoded = msgspec.json.encode(StreamLine(log=news))
    assert json.loads(encoded) == {"log": {"id": "7", "stream": "stderr", "offset": 0, "data": "x"}}
    assert msgspec.json.decode(encoded, type=StreamLine) == StreamLine(log=news)
    assert json.loads(msgspec.json.encode(StreamLine(event=Event(rev=0)))) == {"event": {"rev": 0}}
