"""Folders that their owner alone may look into."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def make_private(folder: Path) -> None:
    """Make `folder` and those above it that are missing, with mode 0700.

    Those that exist keep their mode. Raises `OSError` as `Path.mkdir` does, whose ``parents``
    would leave the ones above open to everybody.
    """
    try:
        folder.mkdir(mode=0o700)
    except FileNotFoundError:
        make_private(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
    except FileExistsError:
        if not folder.is_dir():
            raise
