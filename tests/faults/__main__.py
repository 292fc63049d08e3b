"""A campaign of faults: ``python tests/faults``, with ``--help`` for the options."""

from __future__ import annotations

import sys
from pathlib import Path


def _main() -> int:
    # What it shares with the tests is found from their folder.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from faults.command import main  # noqa: PLC0415

    return main()


if __name__ == "__main__":
    sys.exit(_main())
