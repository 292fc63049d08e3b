"""Version 1: tasks, their batches, nodes, and facts about the database."""

from __future__ import annotations

STATEMENTS = (
    "CREATE TABLE meta (key TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL)",
    "CREATE TABLE batch (id INTEGER NOT NULL PRIMARY KEY, spec BLOB NOT NULL, script BLOB)",
    """
    CREATE TABLE task (
        id INTEGER NOT NULL PRIMARY KEY,
        batch_id INTEGER NOT NULL REFERENCES batch (id),
        batch_index INTEGER NOT NULL,
        batch_size INTEGER NOT NULL,
        rev INTEGER NOT NULL,
        owner TEXT NOT NULL,
        name TEXT NOT NULL,
        status TEXT NOT NULL,
        node TEXT,
        numa_node INTEGER,
        cpus TEXT NOT NULL,
        reason TEXT,
        exit_code INTEGER,
        kill_requested INTEGER NOT NULL DEFAULT 0,
        submitted_at REAL NOT NULL,
        started_at REAL,
        completed_at REAL,
        stdout_path TEXT,
        stderr_path TEXT
    )
    """,
    "CREATE INDEX task_batch_id ON task (batch_id, id)",
    "CREATE INDEX task_rev ON task (rev)",
    "CREATE INDEX task_status ON task (status, id)",
    "CREATE INDEX task_node ON task (node, id)",
    "CREATE INDEX task_name ON task (name, id)",
    "CREATE INDEX task_owner ON task (owner, id)",
    """
    CREATE TABLE node (
        name TEXT NOT NULL PRIMARY KEY,
        rev INTEGER NOT NULL,
        uid TEXT NOT NULL,
        info TEXT NOT NULL,
        last_heartbeat REAL,
        draining INTEGER NOT NULL DEFAULT 0
    )
    """,
    "CREATE INDEX node_rev ON node (rev)",
)
