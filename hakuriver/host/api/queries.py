"""Queries: the arguments after the ``?``, checked by the structs that describe them."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from hakuriver.errors import InvalidRequest
from hakuriver.model.submission import invalid

if TYPE_CHECKING:
    from collections.abc import Mapping

Q = TypeVar("Q", bound=msgspec.Struct)

#: How the API's document refers to a struct.
REF = "#/components/schemas/{name}"
#: Revisions and offsets end here.
HIGHEST = 1 << 62

# Laxer readings (1e3, +1, 1_0) are nobody's spelling of a count; longer ones are out of any range.
_WHOLE = re.compile(r"-?[0-9]{1,20}\Z", re.ASCII)
_FLAGS = {"0": False, "false": False, "1": True, "true": True}


def decode_query(given: Mapping[str, str], kind: type[Q]) -> Q:
    """Return the arguments as a struct; raise `InvalidRequest` naming the one that is wrong.

    The words that describe an argument in the API's document also say how to mend it.
    """
    schemas = properties_of(kind)
    read = {name: _read(text, schemas[name]) for name, text in given.items()}
    try:
        return msgspec.convert(read, type=kind)
    except msgspec.ValidationError as error:
        wrong = invalid(error)
        told = schemas.get(wrong.field, {}).get("description", "")
        raise InvalidRequest(
            wrong.field, f"{given.get(wrong.field, '')[:40]!r}: {wrong.reason}. {told}"
        ) from None


@cache
def properties_of(kind: type[msgspec.Struct]) -> dict[str, dict[str, Any]]:
    """Return the schema of each argument; None, which is not to give it, is left out."""
    _, schemas = msgspec.json.schema_components([kind], ref_template=REF)
    properties = schemas[kind.__name__]["properties"]
    return {name: _given(schema) for name, schema in properties.items()}


def _given(schema: dict[str, Any]) -> dict[str, Any]:
    rest = {key: value for key, value in schema.items() if key not in ("anyOf", "default")}
    for one in schema.get("anyOf", []):
        if one != {"type": "null"}:
            rest = {**one, **rest}
    if schema.get("default") is not None:
        rest["default"] = schema["default"]
    return rest


def _read(text: str, schema: dict[str, Any]) -> object:
    if schema.get("type") == "integer" and _WHOLE.match(text):
        return int(text)
    if schema.get("type") == "boolean":
        return _FLAGS.get(text.lower(), text)
    return text
