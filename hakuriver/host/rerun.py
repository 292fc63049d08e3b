"""A task once more: the request that would have made it."""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING

from hakuriver.errors import Conflict, InvalidRequest
from hakuriver.host.store import queries
from hakuriver.model.submission import SubmitRequest
from hakuriver.model.targets import Target
from hakuriver.model.views import MASK

if TYPE_CHECKING:
    from hakuriver.host.cluster import Cluster
    from hakuriver.host.records import TaskRecord
    from hakuriver.model.submission import RerunRequest


async def rerun_request(cluster: Cluster, record: TaskRecord, wish: RerunRequest) -> SubmitRequest:
    """Return the request that repeats a task.

    Raises:
        Conflict: it has not ended yet.
        InvalidRequest: the values of its environment have been erased, and none are given.
    """
    if not record.is_final:
        raise Conflict(f"task {record.id} is {record.status}; it can be repeated when it has ended")
    spec, origin = record.spec, record.origin
    script = (
        None
        if spec.command
        else await cluster.store.read(queries.script_of, record.placement.batch_id)
    )
    target = Target(record.node or "", record.placement.numa_node)
    return SubmitRequest(
        command=spec.command or None,
        arguments=list(spec.arguments),
        env_vars=_environment(record, wish),
        required_cores=spec.required_cores,
        required_memory_bytes=spec.required_memory_bytes,
        use_private_network=spec.use_private_network,
        use_private_pid=spec.use_private_pid,
        targets=[str(target)] if origin.targeted and record.node else None,
        script_base64=None if script is None else b64encode(script).decode("ascii"),
        interpreter=list(spec.interpreter) or None,
        working_directory=spec.working_directory,
        time_limit_seconds=spec.time_limit_seconds,
        name=spec.name,
        queue=wish.queue,
        idempotency_key=wish.idempotency_key,
    )


def _environment(record: TaskRecord, wish: RerunRequest) -> dict[str, str]:
    given = wish.env_vars or {}
    wanted = {**record.spec.env_vars, **given}
    erased = sorted(name for name in wanted if wanted[name] == MASK and name not in given)
    if erased:
        raise InvalidRequest(
            "env_vars",
            "the values of this task's environment were erased when it ended; give them again: "
            + ", ".join(erased),
        )
    return wanted
