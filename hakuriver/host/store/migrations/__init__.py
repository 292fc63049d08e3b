"""Numbered steps that bring a database to the present shape.

Each step is a module ``vNNN_what`` with `STATEMENTS`. A database's version is its SQLite
``user_version``; a step and its new version are committed together.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from hakuriver.errors import StoreError
from hakuriver.host.store.migrations import (
    v001_initial,
    v002_accounting,
    v003_units,
    v004_pages,
    v005_joining,
)

if TYPE_CHECKING:
    from pathlib import Path

    from peewee import SqliteDatabase

_log = logging.getLogger(__name__)

STEPS: tuple[tuple[str, ...], ...] = (
    v001_initial.STATEMENTS,
    v002_accounting.STATEMENTS,
    v003_units.STATEMENTS,
    v004_pages.STATEMENTS,
    v005_joining.STATEMENTS,
)
LATEST = len(STEPS)


def migrate(database: SqliteDatabase, path: Path) -> None:
    """Bring `database`, whose file is `path`, to the latest version.

    An older one is first copied to ``<path>.v<N>.bak``. A newer one is refused with `StoreError`.
    """
    version = int(database.execute_sql("PRAGMA user_version").fetchone()[0])
    if version > LATEST:
        raise StoreError(
            f"{path}: written by a newer HakuRiver (schema {version}, this one knows {LATEST}); "
            "upgrade hakuriver-jupyter on this machine"
        )
    if 0 < version < LATEST:
        backup = path.with_name(f"{path.name}.v{version}.bak")
        backup.unlink(missing_ok=True)
        # SQLite keeps the mode of a file that is there, and empty.
        os.close(os.open(backup, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        database.execute_sql("VACUUM INTO ?", (str(backup),))
        _log.info(
            "%s is brought from schema %d to %d; as it was it lies in %s",
            *(path, version, LATEST, backup),
        )
    for number in range(version, LATEST):
        with database.atomic("EXCLUSIVE"):
            for statement in STEPS[number]:
                database.execute_sql(statement)
            database.execute_sql(f"PRAGMA user_version = {number + 1}")
