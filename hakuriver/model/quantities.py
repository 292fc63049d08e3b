"""Memory sizes and durations, as people write them.

Memory counts in powers of 1024 whatever the spelling (``4G`` = ``4GiB``), as systemd does.
"""

from __future__ import annotations

import re

from hakuriver.errors import ConfigError, InvalidRequest

_UNITS = ("", "K", "M", "G", "T", "P")
_MEMORY = re.compile(
    r"\s*(\d{1,20}(?:\.\d{1,20})?)\s*([KMGTP]?)(?:i?B)?\s*\Z", re.IGNORECASE | re.ASCII
)
_DURATION = re.compile(r"\s*(\d{1,20}(?:\.\d{1,20})?)\s*([smhd]?)\s*\Z", re.IGNORECASE | re.ASCII)
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}

MAX_CORES = 1 << 16
MAX_MEMORY = 1 << 60
MAX_DURATION = 10 * 365 * 86400


def parse_memory(text: str) -> int:
    """Return bytes for ``512M``, ``1.5G``, ``4GiB`` or a plain number of bytes (1 or more)."""
    match = _MEMORY.match(text)
    if not match:
        raise InvalidRequest("memory", f"{text!r} is no size (write for example 512M or 4G)")
    number, unit = match.groups()
    whole, _, part = number.partition(".")
    divisor: int = 10 ** len(part)
    size = (int(whole + part) << 10 * _UNITS.index(unit.upper())) // divisor
    if not 1 <= size <= MAX_MEMORY:
        raise InvalidRequest("memory", f"{text!r} is not between 1 byte and 1024P")
    return size


def memory_of_key(key: str, text: str) -> int:
    """Return the bytes that a configuration's key says; raise `ConfigError` that names it."""
    try:
        return parse_memory(text)
    except InvalidRequest as error:
        raise ConfigError(f"{key}: {error.reason}") from None


def format_memory(size: int) -> str:
    """Return `size` bytes with at most two decimals and a binary unit, for people to read."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if round(value, 2) < 1024 or unit == "TiB":  # noqa: PLR2004 - the base of every unit here
            return f"{value:.2f}".rstrip("0").rstrip(".") + f" {unit}"
        value /= 1024
    raise AssertionError


def parse_duration(text: str) -> float:
    """Return seconds for ``90``, ``90s``, ``15m``, ``2h`` or ``1d`` (more than 0)."""
    match = _DURATION.match(text)
    if not match:
        raise InvalidRequest("duration", f"{text!r} is no duration (write for example 90s or 2h)")
    number, unit = match.groups()
    seconds = float(number) * _SECONDS[unit.lower()]
    if not 0 < seconds <= MAX_DURATION:
        raise InvalidRequest("duration", f"{text!r} is not more than 0 and at most ten years")
    return seconds


def format_duration(seconds: float) -> str:
    """Return `seconds` in the two largest units: ``30 ms``, ``0.4 s``, ``3m 20s``, ``2d 4h``."""
    if seconds < 0.1:  # noqa: PLR2004
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:  # noqa: PLR2004
        return f"{seconds:.1f} s"
    whole = round(seconds)
    parts: list[str] = []
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, whole = divmod(whole, length)
        if count or parts:
            parts.append(f"{count}{unit}")
    return " ".join(part for part in parts[:2] if not part.startswith("0"))
