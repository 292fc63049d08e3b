"""What the host's refusals mean: from a status and a body to one of our exceptions."""

from __future__ import annotations

from http import HTTPStatus

import msgspec

from hakuriver.errors import (
    Conflict,
    HakuRiverError,
    HostFault,
    InvalidRequest,
    NodeOffline,
    NotFound,
    SubmissionRefused,
    TooManyRequests,
    Unauthorized,
)
from hakuriver.model.views import ErrorAnswer, ErrorView, FieldError

_SUBMISSIONS = ("/submit", "/rerun/")
_FIELDS_SHOWN = 3
_TEXT_SHOWN = 300


def error_from(
    url: str, path: str, status: int, body: bytes, *, retry_after: str = ""
) -> HakuRiverError:
    """Return the exception for an answer of the host at `url` that is no success.

    `retry_after` is the answer's header of that name, in whole seconds; anything else says
    nothing. A body that tells it exactly is preferred.
    """
    view = _read(body)
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return _too_many(url, view, retry_after)
    if view is None:
        return _foreign(url, path, status)
    return _refusal(url, status, view, submission=any(part in path for part in _SUBMISSIONS))


def error_of(url: str, answer: ErrorAnswer) -> HakuRiverError:
    """Return the exception that one of many submissions would have raised alone."""
    view = ErrorView(detail=answer.detail, failed_targets=answer.failed_targets)
    return _refusal(url, answer.status, view, submission=True)


def _refusal(url: str, status: int, view: ErrorView, *, submission: bool) -> HakuRiverError:
    if view.failed_targets:
        return SubmissionRefused(_sentence(view), view.failed_targets)
    if isinstance(view.detail, list):
        return _invalid(view.detail)
    return _told(url, status, view.detail[:_TEXT_SHOWN], submission=submission)


def _told(url: str, status: int, detail: str, *, submission: bool) -> HakuRiverError:
    """Return the error for an answer that bears one sentence."""
    error: HakuRiverError
    match status:
        case HTTPStatus.UNAUTHORIZED | HTTPStatus.FORBIDDEN:
            error = _unauthorized(url, detail)
        case HTTPStatus.NOT_FOUND:
            error = NotFound(detail)
        case HTTPStatus.CONFLICT:
            error = Conflict(detail)
        case HTTPStatus.SERVICE_UNAVAILABLE if submission:
            error = SubmissionRefused(detail)
        case HTTPStatus.SERVICE_UNAVAILABLE:
            error = NodeOffline(detail)
        case _ if HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR:
            error = InvalidRequest("", detail)
        case _:
            error = HostFault(f"the host at {url} failed ({status}): {detail}")
    return error


def _read(body: bytes) -> ErrorView | None:
    try:
        return msgspec.json.decode(body, type=ErrorView)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _foreign(url: str, path: str, status: int) -> HakuRiverError:
    """Return the error for an answer that no HakuRiver host gives."""
    if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        return _unauthorized(url, "")
    return HostFault(
        f"the host at {url} answered {path} with status {status} and no reason: "
        "is it a HakuRiver host?"
    )


def _too_many(url: str, view: ErrorView | None, retry_after: str) -> TooManyRequests:
    """Return the error for a 429, which a proxy before the host may give in words of its own."""
    detail = f"the host at {url} was asked too often"
    if view is not None and isinstance(view.detail, str):
        detail = view.detail[:_TEXT_SHOWN]
    seconds = float(retry_after) if retry_after.isascii() and retry_after.isdigit() else 0.0
    if view is not None and view.retry_after is not None:
        seconds = view.retry_after
    return TooManyRequests(detail, retry_after=seconds)


def _unauthorized(url: str, detail: str) -> Unauthorized:
    said = f" ({detail})" if detail else ""
    return Unauthorized(
        f"the host at {url} does not accept this client's token{said}: give the right one with "
        "HAKURIVER_TOKEN, or in [security.tokens] of the configuration file"
    )


def _invalid(fields: list[FieldError]) -> InvalidRequest:
    if not fields:
        return InvalidRequest("", "the host refused the request without a reason")
    first, *others = fields[:_FIELDS_SHOWN]
    more = "".join(f"; {other.field}: {other.reason}" for other in others)
    return InvalidRequest(first.field, first.reason + more)


def _sentence(view: ErrorView) -> str:
    """Return the refusal with every target's reason in one line."""
    reasons = "; ".join(f"{failed.target}: {failed.reason}" for failed in view.failed_targets)
    said = view.detail if isinstance(view.detail, str) else "no task was created"
    return said if reasons in said else f"{said}: {reasons}"
