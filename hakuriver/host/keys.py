"""Keys of requests: what bore the same key before is answered as it was then."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import msgspec

from hakuriver.errors import Conflict
from hakuriver.host.records import Request
from hakuriver.host.store import queries
from hakuriver.model.views import SubmitReply

if TYPE_CHECKING:
    from hakuriver.host.store import Store


class RequestKey:
    """The key of one request; without one nothing is remembered.

    Args:
        store: where answers are kept, each with the batch that it tells of.
        owner: who asks; two owners may choose the same key.
        key: what they chose.
        asked: all that was asked for, to tell another request under the same key.
    """

    def __init__(self, store: Store, owner: str, key: str | None, asked: object) -> None:
        self._store = store
        self._key = None if key is None else msgspec.json.encode([owner, key]).decode()
        self._asked = asked

    def kept(self, reply: SubmitReply) -> Request | None:
        """Return what is to be written with the batch, None without a key."""
        if self._key is None:
            return None
        return Request(key=self._key, digest=self._digest(), reply=msgspec.json.encode(reply))

    async def answered_before(self) -> SubmitReply | None:
        """Return the answer to the same request; None if it is new.

        Raises:
            Conflict: the key was used for another request.
        """
        if self._key is None:
            return None
        before = await self._store.read(queries.request, self._key)
        if before is None:
            return None
        if before.digest != self._digest():
            raise Conflict(
                "this idempotency_key was used for another submission; give each its own"
            )
        return msgspec.json.decode(before.reply, type=SubmitReply)

    def _digest(self) -> bytes:
        return hashlib.sha256(msgspec.json.encode(self._asked, order="sorted")).digest()
