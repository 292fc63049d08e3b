"""Version 3: the systemd units in which tasks run."""

from __future__ import annotations

STATEMENTS = ("ALTER TABLE task ADD COLUMN unit TEXT",)
