"""Submissions: one, many at once, and a task once more."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from hakuriver.errors import HakuRiverError, InvalidRequest, SubmissionRefused
from hakuriver.host.api.base import ApiHandler
from hakuriver.host.api.operations import JSON, Operation
from hakuriver.host.keys import RequestKey
from hakuriver.host.rerun import rerun_request
from hakuriver.host.submission import Submission
from hakuriver.model.ids import parse_id
from hakuriver.model.submission import (
    MAX_TOGETHER,
    RerunRequest,
    SubmitManyRequest,
    SubmitRequest,
    decode_body,
)
from hakuriver.model.views import (
    ErrorAnswer,
    FieldError,
    SubmitAnswer,
    SubmitManyReply,
    SubmitReply,
)

if TYPE_CHECKING:
    import msgspec


class Submit(ApiHandler):
    """``POST /submit``: takes a submission in; its ids are on disk when it answers."""

    async def post(self) -> None:
        """Answer 202 with the ids; 422, 4xx or 503 when no task was created."""
        request = SubmitRequest.from_json(self.request.body)
        submission = Submission(self.services.cluster, request, self.owner)
        await self.reply(await submission.submit(), 202)


class SubmitMany(ApiHandler):
    """``POST /submit-many``: up to a thousand submissions in one transaction."""

    async def post(self) -> None:
        """Answer 200 with an answer for each, in their order."""
        many = decode_body(self.request.body, SubmitManyRequest)
        requests = [_decoded(one) for one in many.submissions]
        tasks = sum(len(one.targets or [""]) for one in requests if isinstance(one, SubmitRequest))
        if tasks > MAX_TOGETHER:
            raise InvalidRequest(
                "submissions", f"make {tasks} tasks; together they may make {MAX_TOGETHER}"
            )
        answers = await asyncio.gather(*(self._answer(one) for one in requests))
        await self.reply(SubmitManyReply(answers))

    async def _answer(self, request: SubmitRequest | HakuRiverError) -> SubmitAnswer:
        # All of these run up to their first wait in one turn of the loop, which is one commit.
        if isinstance(request, HakuRiverError):
            return SubmitAnswer(error=_error_answer(request))
        try:
            submission = Submission(self.services.cluster, request, self.owner)
            return SubmitAnswer(reply=await submission.submit())
        except HakuRiverError as error:
            return SubmitAnswer(error=_error_answer(error))


class Rerun(ApiHandler):
    """``POST /rerun/{id}``: the same once more, as a new task."""

    async def post(self, task_id: str) -> None:
        """Answer 202 with the new id; 404, 409 or 422 where it cannot be repeated."""
        wish = decode_body(self.request.body or b"{}", RerunRequest)
        cluster, number = self.services.cluster, parse_id(task_id)
        key = RequestKey(cluster.store, self.owner, wish.idempotency_key, [number, wish])
        # Before anything else: the task may have changed since the first answer was lost.
        reply = await key.answered_before()
        if reply is None:
            request = await rerun_request(cluster, await cluster.get(number), wish)
            submission = Submission(cluster, request, self.owner, retry_of=number, key=key)
            reply = await submission.submit()
        await self.reply(reply, 202)


def _decoded(body: msgspec.Raw) -> SubmitRequest | HakuRiverError:
    try:
        return SubmitRequest.from_json(bytes(body))
    except InvalidRequest as error:
        return error


def _error_answer(error: HakuRiverError) -> ErrorAnswer:
    detail: str | list[FieldError] = str(error)
    failed = error.failed_targets if isinstance(error, SubmissionRefused) else ()
    if isinstance(error, InvalidRequest):
        detail = [FieldError(error.field, error.reason)]
    return ErrorAnswer(status=error.http_status, detail=detail, failed_targets=list(failed))


OPERATIONS = [
    Operation(
        method="POST",
        path="/submit",
        summary="Create a task for each target",
        body=SubmitRequest,
        replies={JSON: SubmitReply},
        status=202,
        errors=(409,),
    ),
    Operation(
        method="POST",
        path="/submit-many",
        summary="Take in many submissions at once; each is answered for itself",
        body=SubmitManyRequest,
        replies={JSON: SubmitManyReply},
    ),
    Operation(
        method="POST",
        path="/rerun/{task_id}",
        summary="Create a task that repeats one that has ended",
        body=RerunRequest,
        body_needed=False,
        replies={JSON: SubmitReply},
        status=202,
        errors=(404, 409),
    ),
]
ROUTES = [
    (r"(?:/api)?/submit", Submit),
    (r"(?:/api)?/submit-many", SubmitMany),
    (r"(?:/api)?/rerun/([^/]+)", Rerun),
]
