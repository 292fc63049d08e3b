"""Version 4: indices for lists that are filtered by two things at once."""

from __future__ import annotations

STATEMENTS = (
    "CREATE INDEX task_node_status ON task (node, status, id)",
    "CREATE INDEX task_owner_status ON task (owner, status, id)",
    "CREATE INDEX task_name_status ON task (name, status, id)",
    "CREATE INDEX task_node_owner ON task (node, owner, id)",
)
