from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hakuriver.errors import InvalidRequest
from hakuriver.model.targets import Target, check_node_name

NAMES = st.text(string.ascii_letters + string.digits + "._-", min_size=1, max_size=40).filter(
    lambda name: name.strip(".")
)


@given(NAMES, st.none() | st.integers(0, 9999))
def test_what_is_written_is_read_again(node: str, numa: int | None) -> None:
    target = Target(node, numa)
    assert Target.parse(str(target)) == target
    assert check_node_name(node) == node


@given(st.text(max_size=30))
def test_any_text_is_read_as_it_is_written_or_refused(text: str) -> None:
    refused: InvalidRequest | None = None
    try:
        assert str(Target.parse(text)) == text
    except InvalidRequest as error:
        refused = error
    if refused is not None:
        assert refused.field == "target"
        assert repr(text) in refused.reason


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        ":0",
        "n:",
        "n:-1",
        "n:+1",
        "n:01",
        "n:10000",
        "n:1.0",
        "n:0:0",
        "n: 0",
        "n:0\n",
        "n\n",
        " n",
        "a b",
        "a/b",
        "../x",
        ".",
        "..",
        "é",
        "n:٣",
        "a" * 254,
    ],
)
def test_refusals(text: str) -> None:
    with pytest.raises(InvalidRequest):
        Target.parse(text)


@pytest.mark.parametrize("name", ["", "n:0", "a b", "..", "a" * 254, "n\n"])
def test_a_node_bears_no_such_name(name: str) -> None:
    with pytest.raises(InvalidRequest, match="no node name"):
        check_node_name(name)
