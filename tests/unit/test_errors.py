from __future__ import annotations

import inspect

import pytest

from hakuriver import errors
from hakuriver.errors import ConfigError, HakuRiverError, InvalidRequest, SubmissionRefused
from hakuriver.model.views import FailedTarget

ALL = [
    value
    for value in vars(errors).values()
    if inspect.isclass(value) and issubclass(value, HakuRiverError)
]


@pytest.mark.parametrize("kind", ALL)
def test_every_error_says_what_it_becomes(kind: type[HakuRiverError]) -> None:
    assert kind.http_status in {401, 404, 409, 422, 429, 500, 503}
    assert kind.exit_code != 0
    assert kind.__name__ in (errors.__doc__ or "")
    assert kind.__doc__


def test_mistakes_of_usage_exit_2() -> None:
    assert ConfigError.exit_code == InvalidRequest.exit_code == 2


def test_a_bad_field_is_named() -> None:
    error = InvalidRequest("name", "is empty")
    assert (str(error), error.field, error.reason) == ("name: is empty", "name", "is empty")
    assert str(InvalidRequest("", "is empty")) == "is empty"
    assert isinstance(error, ValueError)


def test_a_refusal_keeps_every_reason() -> None:
    failed = [FailedTarget("n", "gone")]
    assert SubmissionRefused("no", failed).failed_targets == tuple(failed)
    assert SubmissionRefused("no").failed_targets == ()
