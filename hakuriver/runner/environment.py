"""The environment, the command line and the working directory of a task. Pure.

A task sees a small clean environment: the variables below, the thread counts, and what the
submission set. A submitted variable may replace any of them except those that say which task it
is and where (``HAKURIVER_…``): programs rely on these.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from hakuriver.model.tasks import Placement, TaskSpec

#: Variables by which numerical libraries choose their number of threads.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


class Surroundings(msgspec.Struct, frozen=True, kw_only=True):
    """What is the same for all tasks of a runner.

    `path` is the runner's own PATH, `python` the interpreter for scripts; `work_root` holds the
    tasks' own folders, one each. Folders that are not configured are None.
    """

    node: str
    home: str
    user: str
    path: str
    temp_dir: str
    python: str
    work_root: Path
    shared_dir: Path | None = None
    local_temp_dir: Path | None = None
    default_workdir: Path | None = None


def task_environment(
    around: Surroundings, task_id: int, spec: TaskSpec, placement: Placement
) -> dict[str, str]:
    """Return the whole environment of a task; nothing of the runner's own passes through."""
    cores = spec.required_cores
    threads = dict.fromkeys(THREAD_VARIABLES, str(cores)) if cores else {}
    return {
        "HOME": around.home,
        "USER": around.user,
        "PATH": ":".join(filter(None, (around.python.rpartition("/")[0], around.path))),
        "LANG": "C.UTF-8",
        "TMPDIR": str(around.local_temp_dir or around.temp_dir),
        "PYTHONUNBUFFERED": "1",
        **threads,
        **spec.env_vars,
        **_identity(around, task_id, spec, placement),
    }


def _identity(
    around: Surroundings, task_id: int, spec: TaskSpec, placement: Placement
) -> dict[str, str]:
    variables: dict[str, object] = {
        "TASK_ID": task_id,
        "BATCH_ID": placement.batch,
        "BATCH_INDEX": placement.batch_index,
        "BATCH_SIZE": placement.batch_size,
        "NODE": around.node,
        "CORES": spec.required_cores,
    }
    optional: dict[str, object | None] = {
        "SHARED_DIR": around.shared_dir,
        "LOCAL_TEMP_DIR": around.local_temp_dir,
        "TARGET_NUMA_NODE": placement.numa_node,
    }
    given = {name: value for name, value in optional.items() if value is not None}
    return {f"HAKURIVER_{name}": str(value) for name, value in (variables | given).items()}


def command_line(spec: TaskSpec, script: Path, python: str) -> tuple[str, ...]:
    """Return the arguments to execute; `script` is where the spec's script lies, if it has one."""
    if spec.script is None:
        return (spec.command, *spec.arguments)
    if spec.interpreter:
        return (*spec.interpreter, str(script), *spec.arguments)
    if spec.script.startswith(b"#!"):
        return (str(script), *spec.arguments)
    return (python, str(script), *spec.arguments)


def working_directory(around: Surroundings, task_id: int, spec: TaskSpec) -> Path:
    """Return where the task starts; the last resort is a folder of its own, yet to be made."""
    if spec.working_directory is not None:
        return Path(spec.working_directory)
    return around.shared_dir or around.default_workdir or around.work_root / str(task_id)
