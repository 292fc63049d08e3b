"""What ``hakuriver doctor`` says of the host's version."""

from __future__ import annotations

import time

import pytest

from hakuriver._version import __version__
from hakuriver.cli import doctor
from hakuriver.config import Config


@pytest.mark.parametrize(("version", "differs"), [(__version__, False), ("0.0.1", True)])
def test_a_host_of_another_version_is_noted(
    monkeypatch: pytest.MonkeyPatch, version: str, *, differs: bool
) -> None:
    async def ask(_: Config) -> doctor._Alive:
        return doctor._Alive(version=version, time=time.time())

    monkeypatch.setattr(doctor, "_ask", ask)
    finding = doctor._host(Config())
    assert finding.ok
    assert f"answers (version {version})" in finding.why
    assert ("upgrade the host first" in finding.why) == differs
