"""The header of a sweep's journal, for tests that need some other than it has by `replace`."""

from __future__ import annotations

from hakuriver.sweep.journal import Header

HEADER = Header(
    sweep_id="20260101-000000-abcdef",
    name="",
    created=1.0,
    words=["true", "span:{1..3}"],
    side_by_side=False,
    total=3,
    digest="d",
    names=["p1"],
    folder="/",
    cluster={},
)
