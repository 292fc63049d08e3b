"""Hypothesis for all unit tests: it minds what is true, not how long that takes."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# A machine that pauses in the midst of an example has broken nothing.
settings.register_profile(
    "patient", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("patient")
