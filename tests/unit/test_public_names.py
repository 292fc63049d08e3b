from __future__ import annotations

import subprocess
import sys

import hakuriver


def test_every_public_name_can_be_had() -> None:
    for name in hakuriver.__all__:
        assert getattr(hakuriver, name) is not None


def test_importing_brings_in_neither_servers_nor_the_notebook() -> None:
    heavy = {"httpx", "tornado", "peewee", "IPython", "ipywidgets", "asyncio", "psutil"}
    code = "import hakuriver, sys; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not heavy & set(run.stdout.split())
