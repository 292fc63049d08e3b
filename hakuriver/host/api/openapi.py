"""``GET /openapi.json``: what can be asked for, from the structs that check what is asked for."""

from __future__ import annotations

import inspect
import re
from functools import cache
from typing import Annotated, Any

import msgspec

from hakuriver._version import __version__
from hakuriver.host import links
from hakuriver.host.api import events, logs, metrics, nodes, submit, tasks
from hakuriver.host.api.base import ApiHandler
from hakuriver.host.api.operations import JSON, NDJSON, TEXT, Operation
from hakuriver.host.api.queries import REF, properties_of
from hakuriver.model.ids import IdText
from hakuriver.model.submission import SubmitRequest
from hakuriver.model.targets import MAX_NODE_NAME
from hakuriver.model.views import ErrorView

PATH = "/openapi.json"
_PLACE = re.compile(r"{(\w+)}")
_NodeName = Annotated[
    str, msgspec.Meta(max_length=MAX_NODE_NAME, description="The name of a node.")
]
#: What may stand in the variable parts of paths; anything else is not found.
_PLACES: dict[str, Any] = {"task_id": IdText, "batch_id": IdText, "name": _NodeName}
#: Refusals of every path, and those that some have.
_ALWAYS = {
    400: "The path or the request as such cannot be read.",
    401: "The token is missing or wrong.",
    413: "The body is larger than 32 MiB; the connection ends.",
    429: "Too many requests, or too many wrong tokens; `retry_after` says when to try again.",
    422: "A field, an argument, the Host header or the content type is not acceptable.",
    503: "The database, or what would have to answer, is not there now; every reason is told.",
}
REFUSALS = {
    **_ALWAYS,
    403: "Pages of browsers are refused.",
    404: "There is no such task, batch or node.",
    409: "It is not possible in the present state; nothing was changed.",
    416: "The log ends before the range.",
    426: "It takes WebSockets alone.",
    501: "The host was installed without what this needs; it says which extra that is.",
}
_ABOUT = """Every request but `/healthz` bears a token; `/runner…` takes a runner's, all else a
client's. Bodies are JSON in UTF-8, at most 16 MiB, and say so in their `Content-Type`; the `Host`
header names the host. A refusal is `{"detail": …}`: a sentence or, with 422, a list of fields with
reasons. An unknown path answers 404, another method 405 with `Allow`. Ids are strings of digits
(they exceed 2^53), times are ISO 8601 with offset, memory is in bytes. A stream answers lines of
JSON; a line without news comes every ten seconds. Arguments of a query that are not known are let
be; one that is empty is not given."""


class OpenApi(ApiHandler):
    """Answers the document, which is made once."""

    async def get(self) -> None:
        """Answer the OpenAPI 3.1 document."""
        self.set_header("Content-Type", JSON)
        await self.finish(document())


OPERATIONS = [
    Operation(method="GET", path=PATH, summary="This document", replies={JSON: None}),
]
ROUTES = [(r"(?:/api)?/openapi\.json", OpenApi)]


@cache
def document() -> bytes:
    """Return the document as JSON."""
    described = operations()
    paths: dict[str, Any] = {}
    for one in described:
        item = paths.setdefault(one.path, {})
        item[one.method.lower()] = _operation(one)
        if one.prefixed:
            item["servers"] = [{"url": "/api"}]
    schemas = _components(described)
    whole = {
        "openapi": "3.1.0",
        "info": {"title": "HakuRiver host", "version": __version__, "description": _ABOUT},
        "servers": [
            {"url": "/api"},
            {"url": "/", "description": "The same, for clients of the first version"},
        ],
        "security": [{"client": []}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": {
                f"Refused{code}": _refusal(code, text) for code, text in REFUSALS.items()
            },
            "securitySchemes": {
                "client": {"type": "http", "scheme": "bearer"},
                "runner": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "The token of the node that `name` names.",
                },
            },
        },
    }
    return msgspec.json.encode(whole)


def operations() -> list[Operation]:
    """Return what is said of each route."""
    parts = (submit, tasks, logs, nodes, events, metrics, links)
    return [one for part in parts for one in part.OPERATIONS] + OPERATIONS


def _operation(one: Operation) -> dict[str, Any]:
    replies: dict[str, Any] = {str(one.status): {"description": "Done."}}
    if one.replies:
        replies[str(one.status)]["content"] = {
            media: {"schema": _content(media, kind)} for media, kind in one.replies.items()
        }
    for status, meaning in one.also.items():
        replies[str(status)] = {**replies[str(one.status)], "description": meaning}
    for status in sorted({*_ALWAYS, *one.errors}):
        replies[str(status)] = {"$ref": f"#/components/responses/Refused{status}"}
    made: dict[str, Any] = {
        "operationId": _name(one),
        "summary": one.summary,
        "parameters": _parameters(one),
        "responses": replies,
    }
    if one.body is not None:
        schema = {"$ref": REF.format(name=one.body.__name__)}
        made["requestBody"] = {"required": one.body_needed, "content": {JSON: {"schema": schema}}}
    if one.access != "client":
        made["security"] = [] if one.access == "all" else [{one.access: []}]
    return made


def _name(one: Operation) -> str:
    words = re.findall(r"[a-z]+", _PLACE.sub("", one.path))
    return "_".join([one.method.lower(), *words])


def _parameters(one: Operation) -> list[dict[str, Any]]:
    made = [
        {
            "name": place,
            "in": "path",
            "required": True,
            "schema": msgspec.json.schema(_PLACES[place]),
        }
        for place in _PLACE.findall(one.path)
    ]
    if one.query is not None:
        required = msgspec.json.schema(one.query)["$defs"][one.query.__name__]["required"]
        for name, schema in properties_of(one.query).items():
            rest = {key: value for key, value in schema.items() if key != "description"}
            told = schema.get("description", "")
            about = {"name": name, "in": "query", "required": name in required}
            made.append({**about, "description": told, "schema": rest})
    return made


def _content(media: str, kind: type[msgspec.Struct] | None) -> dict[str, Any]:
    if kind is None:
        return {"type": "object"} if media == JSON else {}
    schema: dict[str, Any] = {"$ref": REF.format(name=kind.__name__)}
    return {**schema, "description": "One of these a line."} if media == NDJSON else schema


def _refusal(code: int, text: str) -> dict[str, Any]:
    if code == 416:  # noqa: PLR2004
        return {"description": text, "content": {TEXT: {}}}
    schema = {"$ref": REF.format(name=ErrorView.__name__)}
    return {"description": text, "content": {JSON: {"schema": schema}}}


def _components(described: list[Operation]) -> dict[str, Any]:
    """Return the schemas of all structs that are named, and of those within them."""
    kinds: set[Any] = {ErrorView, SubmitRequest}
    for one in described:
        kinds.update(kind for kind in (*one.replies.values(), one.body) if kind is not None)
    ordered = sorted(kinds, key=lambda kind: str(kind.__name__))
    _, schemas = msgspec.json.schema_components(ordered, ref_template=REF)
    for schema in schemas.values():
        if "description" in schema:
            schema["description"] = inspect.cleandoc(schema["description"])
    return schemas
