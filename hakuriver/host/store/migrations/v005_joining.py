"""Version 5: submissions that have joined the batch of an earlier one."""

from __future__ import annotations

STATEMENTS = (
    "ALTER TABLE task ADD COLUMN submission_id INTEGER REFERENCES batch (id)",
    "CREATE INDEX task_submission_id ON task (submission_id) WHERE submission_id IS NOT NULL",
)
