"""What the API's document says of a route: a record beside each handler."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    import msgspec

JSON = "application/json"
NDJSON = "application/x-ndjson"
TEXT = "text/plain"
MSGPACK = "application/msgpack"


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one path.

    Args:
        method: in capitals.
        path: as it stands below ``/api``, its variable parts in braces.
        summary: what it does, in a line.
        replies: by media type what the answer is made of: a struct, for `NDJSON` that of one
            line, None where it is no JSON. Empty for the upgrade to a WebSocket.
        status: that of a good answer.
        also: further statuses of good answers, with their meaning.
        query: the struct that checks the query's arguments.
        body: the struct that checks the body.
        body_needed: whether a request without a body is refused.
        errors: statuses of refusals, beyond those of every path.
        access: ``client``, ``runner`` or ``all``: whose token it takes.
        prefixed: whether it lies below ``/api`` alone.
    """

    method: str
    path: str
    summary: str
    replies: Mapping[str, type[msgspec.Struct] | None] = field(default_factory=dict)
    status: int = 200
    also: Mapping[int, str] = field(default_factory=dict)
    query: type[msgspec.Struct] | None = None
    body: type[msgspec.Struct] | None = None
    body_needed: bool = True
    errors: tuple[int, ...] = ()
    access: str = "client"
    prefixed: bool = False
