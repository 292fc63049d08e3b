"""What ``--watch`` can show: for each query its tables, its present state and its changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hakuriver.cli.tasks.queries import filters_of
from hakuriver.cli.tasks.show import health_table, node_table, state_words, status_table, task_table
from hakuriver.client.outcome import describe, is_final
from hakuriver.model.quantities import format_memory
from hakuriver.model.views import Event, HealthView

if TYPE_CHECKING:
    import argparse

    from hakuriver.cli.shared.tables import Table
    from hakuriver.client.aio import AsyncClient
    from hakuriver.model.views import NodeView, TaskView

#: What a line can be about.
Item = Event | HealthView


class Subject:
    """One query of the client command, by the name of its action, with its options."""

    def __init__(self, action: str, options: argparse.Namespace) -> None:
        self._action = action
        self._options = options
        self._mine: dict[str, bool] = {}
        self._nodes = action in ("list_nodes", "watch")
        self._tasks = action in ("list_tasks", "watch")
        self.measured = action == "health"

    async def tables(self, client: AsyncClient) -> tuple[list[Table], bool]:
        """Ask for the tables as they are now, and whether they will never change again."""
        match self._action:
            case "status":
                view = await client.status(self._options.status)
                return [status_table(view)], is_final(view)
            case "health":
                node = self._options.health or None
                return [health_table(await client.health(node), await client.nodes())], False
            case _:
                shown: list[Table] = []
                if self._nodes:
                    shown.append(node_table(await client.nodes()))
                if self._tasks:
                    shown.append(task_table(await client.tasks(**filters_of(self._options))))
                return shown, False

    async def present(self, client: AsyncClient) -> list[Item]:
        """Ask for what there is now, oldest first."""
        items: list[Item] = []
        if self.measured:
            items += await client.health(self._options.health or None)
        if self._nodes:
            items += [Event(rev=node.rev, node=node) for node in await client.nodes()]
        if self._tasks:
            page = await client.tasks(**filters_of(self._options))
            items += [Event(rev=task.rev, task=task) for task in reversed(page)]
        if self._action == "status":
            task = await client.status(self._options.status)
            items.append(Event(rev=task.rev, task=task))
        return items

    async def concerns(self, client: AsyncClient, event: Event) -> bool:
        """Tell whether a change belongs to what is shown."""
        if event.task is None:
            return (self._nodes or self.measured) and (event.node or event.forgotten) is not None
        if self._action == "status":
            return int(event.task.task_id) == int(self._options.status)
        return self._tasks and await self._fits(client, event.task)

    def ends_with(self, item: Item) -> bool:
        """Tell whether nothing more can come after `item`."""
        if self._action != "status" or not isinstance(item, Event) or item.task is None:
            return False
        return is_final(item.task)

    async def _fits(self, client: AsyncClient, task: TaskView) -> bool:
        """Tell whether a task passes the filters, as the host's own list would."""
        wanted = filters_of(self._options)
        given = {
            "state": task.status.value,
            "node": task.assigned_node,
            "batch": task.batch_id,
            "name": task.name,
        }
        if any(wanted.get(name) not in (None, value) for name, value in given.items()):
            return False
        return not self._options.mine or await self._is_mine(client, task)

    async def _is_mine(self, client: AsyncClient, task: TaskView) -> bool:
        """Tell whether a task's owner is this token's name, which only the host knows."""
        if task.owner not in self._mine:
            page = await client.tasks(mine=True, limit=1, before=int(task.task_id) + 1)
            self._mine[task.owner] = any(view.task_id == task.task_id for view in page)
        return self._mine[task.owner]


def key_of(item: Item) -> str:
    """Return what `item` is about: the name of a node, or the id of a task."""
    if isinstance(item, HealthView):
        return f"health {item.hostname}"
    if item.task is not None:
        return f"task {item.task.task_id}"
    return f"node {item.node.hostname if item.node else item.forgotten}"


def line_of(item: Item) -> str:
    """Return `item` as a line for people."""
    if isinstance(item, HealthView):
        memory = (
            f"{format_memory(item.memory_used_bytes)} of {format_memory(item.memory_total_bytes)}"
        )
        return (
            f"node {item.hostname}: {item.status.value}, CPU {item.cpu_percent:.1f} %, "
            f"memory {memory}, load {item.load_average:.2f}"
        )
    if item.task is not None:
        return f"{describe(item.task)}: {state_words(item.task)}"
    return _node_line(item.node) if item.node else f"node {item.forgotten}: forgotten"


def _node_line(node: NodeView) -> str:
    draining = ", draining" if node.draining else ""
    return (
        f"node {node.hostname}: {node.status.value}{draining}, "
        f"{node.cores_in_use} of {node.total_cores} cores in use"
    )
