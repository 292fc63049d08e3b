"""The host's application: which path goes to which handler. Wiring only."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from tornado.web import Application, RequestHandler

from hakuriver.host import links
from hakuriver.host.api import events, logs, metrics, nodes, openapi, submit, tasks
from hakuriver.host.api.base import ApiHandler, UnknownPath

if TYPE_CHECKING:
    from hakuriver.host.services import Services

logger = logging.getLogger(__name__)

# A runner that does not answer a ping for so long is cut off, in seconds.
_PING_SECONDS = 10.0


def make_app(services: Services) -> Application:
    """Return the application that serves the API and the runner link."""
    routes: list[Any] = [
        *links.ROUTES,
        *submit.ROUTES,
        *tasks.ROUTES,
        *logs.ROUTES,
        *nodes.ROUTES,
        *events.ROUTES,
        *metrics.ROUTES,
        *openapi.ROUTES,
    ]
    return Application(
        routes,
        default_handler_class=UnknownPath,
        services=services,
        log_function=_log_request,
        websocket_ping_interval=_PING_SECONDS,
        websocket_ping_timeout=_PING_SECONDS,
        # Twice a frame's limit: a log chunk and its envelope fit with room.
        websocket_max_message_size=16 << 20,
    )


def _log_request(handler: RequestHandler) -> None:
    """Log the host's own faults; what was refused is the asker's, told to the asker."""
    level = logging.ERROR if handler.get_status() == 500 else logging.DEBUG  # noqa: PLR2004
    if isinstance(handler, ApiHandler):
        handler.count()
    path = handler.request.path
    logger.log(level, "%s %s: %s", handler.request.method, path[:200], handler.get_status())
