"""HakuRiver: a small self-hosted cluster manager that is driven from the notebook.

The public names are imported on first use, so that ``import hakuriver`` stays quick::

    from hakuriver import Client
    client = Client()
    task = client.run(["./train.sh", "--fast"], target="node1", cores=4)
    task.result()
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hakuriver._version import __version__
from hakuriver.errors import (
    HakuRiverError,
    TaskError,
    TaskFailed,
    TaskKilled,
    TaskLost,
    TaskOutOfMemory,
)

if TYPE_CHECKING:
    from hakuriver.client.aio import AsyncClient
    from hakuriver.client.futures import Batch, Task
    from hakuriver.client.sync import Client
    from hakuriver.model.targets import Target
    from hakuriver.model.views import TaskResult
    from hakuriver.sweep.sweep import Sweep

__all__ = [
    "AsyncClient",
    "Batch",
    "Client",
    "HakuRiverError",
    "Sweep",
    "Target",
    "Task",
    "TaskError",
    "TaskFailed",
    "TaskKilled",
    "TaskLost",
    "TaskOutOfMemory",
    "TaskResult",
    "__version__",
    "load_ipython_extension",
    "unload_ipython_extension",
]

_LAZY = {
    "AsyncClient": "hakuriver.client.aio",
    "Batch": "hakuriver.client.futures",
    "Client": "hakuriver.client.sync",
    "Sweep": "hakuriver.sweep.sweep",
    "Target": "hakuriver.model.targets",
    "Task": "hakuriver.client.futures",
    "TaskResult": "hakuriver.model.views",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'hakuriver' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)


def load_ipython_extension(ip: Any) -> None:
    """Register the magics: what ``%load_ext hakuriver`` calls."""
    import_module("jupyter_ext.magics").load(ip)


def unload_ipython_extension(ip: Any) -> None:
    """Take the magics away again: what ``%unload_ext hakuriver`` calls."""
    import_module("jupyter_ext.magics").unload(ip)
