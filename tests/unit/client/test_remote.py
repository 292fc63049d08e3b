from __future__ import annotations

import json
from typing import TYPE_CHECKING

import httpx
import msgspec
import pytest

from hakuriver.client.aio import AsyncClient
from hakuriver.client.building import command_request, rerun_request
from hakuriver.client.remote import HttpCluster
from hakuriver.client.transport import Transport
from hakuriver.errors import Conflict, InvalidRequest, NotFound
from hakuriver.model.submission import SubmitRequest
from unit.client.fakes import make_node

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.asyncio

REPLY = {"message": "", "task_ids": ["5"], "batch_id": "4", "failed_targets": []}


def cluster_of(answer: Callable[[httpx.Request], object]) -> HttpCluster:
    def respond(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=msgspec.json.encode(answer(request)) + b"\n")

    return HttpCluster(Transport("http://host:1", "t", base=httpx.MockTransport(respond)))


async def test_filters_are_arguments_of_the_query() -> None:
    queries: list[str] = []

    def answer(request: httpx.Request) -> object:
        queries.append(request.url.query.decode())
        return {"tasks": []}

    cluster = cluster_of(answer)
    await cluster.tasks()
    await cluster.tasks(state="running", batch=12, mine=True, limit=1, before=None)
    await cluster.tasks(mine=False, name="a b")
    assert queries == ["", "state=running&batch=12&mine=1&limit=1", "name=a+b"]
    async with AsyncClient(cluster=cluster) as client:
        with pytest.raises(TypeError, match="no filter 'stat', but: state, node"):
            await client.tasks(stat="running")  # type: ignore[call-arg]


async def test_each_request_goes_to_its_path() -> None:
    seen: list[str] = []

    def answer(request: httpx.Request) -> object:
        seen.append(f"{request.method} {request.url.path}")
        if "nodes" in seen[-1]:
            return {"message": "gone"} if request.method == "DELETE" else make_node()
        return REPLY

    cluster = cluster_of(answer)
    assert (await cluster.drain("n1")).hostname == "n1"
    await cluster.resume("n1")
    assert await cluster.forget("n1") == "gone"
    assert (await cluster.rerun("7", rerun_request())).task_ids == ["5"]
    assert (await cluster.kill_batch("4")).task_ids == ["5"]
    assert seen == [
        "POST /api/nodes/n1/drain",
        "POST /api/nodes/n1/resume",
        "DELETE /api/nodes/n1",
        "POST /api/rerun/7",
        "POST /api/kill-batch/4",
    ]


async def test_what_can_be_no_name_and_no_id_is_not_sent() -> None:
    cluster = cluster_of(lambda _: pytest.fail("it was sent"))
    with pytest.raises(InvalidRequest, match="no node name"):
        await cluster.drain("../tasks")
    with pytest.raises(NotFound, match="no batch 'x'"):
        await cluster.kill_batch("x")


async def test_many_submissions_are_one_request_and_one_answer_each() -> None:
    bodies: list[list[dict[str, object]]] = []

    def answer(request: httpx.Request) -> object:
        bodies.append(json.loads(request.content)["submissions"])
        error = {"status": 409, "detail": "the key was used for something else"}
        return {"answers": [{"reply": REPLY}, {"error": error}]}

    cluster = cluster_of(answer)
    requests = [command_request(["a"], idempotency_key="k"), SubmitRequest(command="b")]
    first, second = (await cluster.submit_many(requests)).answers
    assert first.reply is not None
    assert second.error is not None
    # What is left out is what a host takes it for, also one that does not know it yet.
    assert bodies[0] == [{"command": "a", "idempotency_key": "k"}, {"command": "b"}]


async def test_a_refusal_among_many_is_the_error_it_would_be_alone() -> None:
    error = {"status": 409, "detail": "the key was used for something else"}
    cluster = cluster_of(
        lambda request: {"answers": [{"error": error}]} if request.method == "POST" else {"rev": 1}
    )
    async with AsyncClient(cluster=cluster) as client:
        (batch,) = await client.submit_many([command_request(["a"])])
        with pytest.raises(Conflict, match="the key was used"):
            await batch
