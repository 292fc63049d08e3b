from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from hakuriver.host.api import openapi
from hakuriver.host.api.base import methods_of
from hakuriver.host.app import make_app
from hakuriver.model import quantities, submission
from support.host_server import detail

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tornado.routing import Rule

    from support.host_server import Server

_PLACE = re.compile(r"{(\w+)}")


@pytest.fixture(scope="module")
def document() -> Any:
    return json.loads(openapi.document())


def described(document: Any) -> set[tuple[str, str]]:
    """Return the methods and paths of the document, each with all its prefixes."""
    return {
        (method.upper(), server["url"].rstrip("/") + path)
        for path, item in document["paths"].items()
        for server in item.get("servers", document["servers"])
        for method in item
        if method != "servers"
    }


def rules() -> list[Rule]:
    return list(make_app(None).default_router.rules[-1].target.rules)  # type: ignore[arg-type]


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from (value["$ref"] for _ in value if isinstance(value.get("$ref"), str))
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def test_document_and_routes_hold_the_same(document: Any) -> None:
    told = described(document)
    assert len(told) == 2 * len(openapi.operations()) - 3
    matched: set[tuple[str, str]] = set()
    for rule in rules():
        pattern = rule.matcher.regex  # type: ignore[attr-defined]
        if pattern.pattern == ".*$":
            continue
        allowed = methods_of(rule.target)
        fitting = {(method, path) for method, path in told if pattern.match(example(path))}
        paths = {path for _, path in fitting}
        assert paths, f"no path of the document fits {pattern.pattern}"
        assert fitting == {(method, path) for path in paths for method in allowed}
        optional = pattern.pattern.startswith("(?:/api)?")
        assert {path.removeprefix("/api") for path in paths} == {
            path for path in paths if not path.startswith("/api")
        } or not optional
        matched |= fitting
    assert matched == told


def example(path: str) -> str:
    return _PLACE.sub("1", path)


@pytest.mark.asyncio
@pytest.mark.parametrize("prefix", ["", "/api"])
async def test_every_path_of_the_document_is_served(
    server: Server, document: Any, prefix: str
) -> None:
    for method, path in described(document):
        if "runner" in path or path.startswith("/api") != bool(prefix):
            continue
        other = "PUT" if method != "PUT" else "GET"
        response = await server.ask(example(path), method=other)
        assert response.code == 405, path
        assert isinstance(detail(response), str)
        assert method in response.headers["Allow"].split(", ")


@pytest.mark.asyncio
@pytest.mark.parametrize("path", ["/openapi.json", "/api/openapi.json"])
async def test_the_document_needs_a_token_and_is_made_once(server: Server, path: str) -> None:
    assert (await server.ask(path, token=None)).code == 401
    response = await server.ask(path)
    assert response.code == 200
    assert response.headers["Content-Type"] == "application/json"
    assert response.body == openapi.document()
    assert openapi.document() is openapi.document()
    assert (await server.ask("/api/openapiXjson")).code == 404


def test_all_that_is_referred_to_is_there(document: Any) -> None:
    found = set(references(document))
    assert len(found) > 30
    for reference in found:
        value = document
        for part in reference.removeprefix("#/").split("/"):
            value = value[part]
    used = {reference.rsplit("/", 1)[1] for reference in found}
    # Nothing is described that nobody can come across.
    assert set(document["components"]["schemas"]) <= used
    assert set(document["components"]["responses"]) <= used


def test_operations_have_names_of_their_own(document: Any) -> None:
    names = [
        operation["operationId"]
        for item in document["paths"].values()
        for method, operation in item.items()
        if method != "servers"
    ]
    assert len(set(names)) == len(names) == len(openapi.operations())


def test_every_limit_is_stated(document: Any) -> None:
    text = json.dumps(document["components"]["schemas"]["SubmitRequest"])
    for limit in (
        submission.MAX_ARGUMENT,
        submission.MAX_ARGUMENTS,
        submission.MAX_TOTAL,
        submission.MAX_SCRIPT,
        submission.MAX_TARGETS,
        submission.MAX_KEY,
        submission.MAX_PATH,
        quantities.MAX_CORES,
        quantities.MAX_MEMORY,
        quantities.MAX_DURATION,
    ):
        assert str(limit) in text, limit
    assert f"{submission.MAX_REQUEST >> 20} MiB" in document["info"]["description"]


def test_every_argument_of_a_query_has_bounds_and_words(document: Any) -> None:
    parameters = [
        parameter
        for item in document["paths"].values()
        for method, operation in item.items()
        if method != "servers"
        for parameter in operation["parameters"]
        if parameter["in"] == "query"
    ]
    assert len(parameters) > 15
    for parameter in parameters:
        schema = parameter["schema"]
        assert parameter["description"].endswith("."), parameter
        bounded = {"maximum", "maxLength", "pattern", "$ref"} & schema.keys()
        assert bounded or schema["type"] == "boolean", parameter
