"""Writing files of settings and certificates: whole, private, and never over another one."""

from __future__ import annotations

import os
import secrets
from typing import TYPE_CHECKING

from hakuriver.disk import make_private, write_private
from hakuriver.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


def write_new(path: Path, text: str) -> bool:
    """Write a file that its owner alone can read; False if there is one.

    The file appears whole or not at all, and an existing one is never touched.

    Raises:
        ConfigError: it cannot be written.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        make_private(path.parent)
        write_private(draft, text.encode())
        try:
            # A link fails where a file exists; a rename would replace it.
            os.link(draft, path)
        except FileExistsError:
            return False
        finally:
            draft.unlink()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror})") from None
    return True
