"""Version 2: where tasks come from, what they used, repeated requests, and removed logs."""

from __future__ import annotations

STATEMENTS = (
    "ALTER TABLE task ADD COLUMN targeted INTEGER NOT NULL DEFAULT 1",
    # Of tasks that have a node by now nobody knows any more whether it was asked for.
    "UPDATE task SET targeted = 0 WHERE node IS NULL",
    "ALTER TABLE task ADD COLUMN retry_of INTEGER",
    "ALTER TABLE task ADD COLUMN usage TEXT",
    "ALTER TABLE task ADD COLUMN logs_removed INTEGER NOT NULL DEFAULT 0",
    # What retention looks for: tasks that ended long ago.
    """
    CREATE INDEX task_completed_at ON task (logs_removed, completed_at)
    WHERE completed_at IS NOT NULL
    """,
    "ALTER TABLE batch ADD COLUMN request_key TEXT",
    "ALTER TABLE batch ADD COLUMN request_digest BLOB",
    "ALTER TABLE batch ADD COLUMN reply BLOB",
    "CREATE UNIQUE INDEX batch_request_key ON batch (request_key) WHERE request_key IS NOT NULL",
)
