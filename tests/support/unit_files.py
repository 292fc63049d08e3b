"""Units as systemd reads them, for tests: written apart from what writes them."""

from __future__ import annotations

import re


def parse_unit(text: str) -> dict[str, dict[str, list[str]]]:
    """Return section, key and values; refuse what systemd.syntax(7) does not know."""
    sections: dict[str, dict[str, list[str]]] = {}
    section: dict[str, list[str]] = {}
    for line in text.split("\n"):
        if not line or line.startswith("#"):
            continue
        assert not line.endswith("\\"), "a line that goes on"
        if found := re.fullmatch(r"\[(\w+)\]", line):
            section = sections.setdefault(found[1], {})
        else:
            key, sign, value = line.partition("=")
            assert sign
            assert key.isalpha()
            section.setdefault(key, []).append(value)
    assert list(sections) == ["Unit", "Service", "Install"]
    return sections


def unit_words(value: str) -> list[str]:
    """Split a value as systemd does: quotes, backslashes, and ``%%`` for a per cent sign."""
    found: list[str] = []
    rest = value
    while rest:
        match = re.match(r'"((?:[^"\\]|\\["\\])*)"(?: |$)|([^" \\]+)(?: |$)', rest)
        assert match, rest
        text = match[2] if match[1] is None else re.sub(r"\\(.)", r"\1", match[1])
        assert "%" not in text.replace("%%", "")
        found.append(text.replace("%%", "%"))
        rest = rest[match.end() :]
    return found
