"""The runner link: one authenticated WebSocket a runner, which the runner opens and keeps."""

from __future__ import annotations

import asyncio
import hmac
import logging
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta
from tornado.websocket import WebSocketClosedError, WebSocketHandler

from hakuriver._version import __version__
from hakuriver.errors import (
    Conflict,
    InvalidRequest,
    StoreError,
    TooManyRequests,
    Unauthorized,
)
from hakuriver.host import exchange, reconcile, retention
from hakuriver.host.api.base import ApiHandler, count_in, refusal_of, services_of, stream_of
from hakuriver.host.api.operations import JSON, MSGPACK, Operation
from hakuriver.host.auth import bearer
from hakuriver.model.auth import runner_token
from hakuriver.model.ids import parse_id
from hakuriver.model.messages import (
    MAX_FRAME,
    Discarded,
    Finished,
    Heartbeat,
    Hello,
    Known,
    KnownEnd,
    Launch,
    LaunchWaiting,
    LogChunk,
    LogEnd,
    LogOpened,
    LogReset,
    Measured,
    Message,
    Outbox,
    Refuse,
    Started,
    Welcome,
    encode,
    greeting_in,
    messages_from_runner,
)
from hakuriver.model.targets import MAX_NODE_NAME, check_node_name
from hakuriver.model.tasks import TaskState
from hakuriver.model.views import ErrorView, Joining

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from tornado.httputil import HTTPServerRequest

    from hakuriver.host.cluster import Cluster
    from hakuriver.host.logs import Subscriptions
    from hakuriver.host.services import Services

logger = logging.getLogger(__name__)

# Two hundred thousand tasks of a common size.
_MAX_EXCHANGE = 128 << 20


def authenticated_node(request: HTTPServerRequest, services: Services) -> str | None:
    """Return the node for which the request's token speaks, None if it speaks for none."""
    name = request.query_arguments.get("name", [b""])[0].decode("utf-8", "replace")
    try:
        check_node_name(name)
    except InvalidRequest:
        return None
    expected = runner_token(services.config.security.runner_secret, name)
    given = bearer(request.headers)
    return name if hmac.compare_digest(given.encode(), expected.encode()) else None


class RunnerQuery(msgspec.Struct, frozen=True, kw_only=True):
    """For which node a runner speaks."""

    name: Annotated[
        str, Meta(max_length=MAX_NODE_NAME, description="The node that the token is for.")
    ]


class RunnerLink(WebSocketHandler):
    """One runner's link. Messages about one task are handled in the order they come."""

    _cluster: Cluster
    _logs: Subscriptions
    _name: str
    _known: list[Known]
    _held: list[Message]
    _outbox: Outbox
    _welcomed = False
    _told = False
    _exchanging = True
    #: Bytes that were told before the exchange ended: they stay in memory until then.
    _told_bytes = 0

    async def prepare(self) -> None:
        """Refuse browsers, and whoever has not the token of the node it names."""
        if "Origin" in self.request.headers:
            # A runner sends none. Tornado would let pages in whose name is the one they ask for.
            await self._turn_away(403, "this path is for runners; pages of browsers are refused")
            return
        services = services_of(self.application)
        name = authenticated_node(self.request, services)
        if name is None:
            try:
                count_in(services.guesses, str(self.request.remote_ip))
            except TooManyRequests as error:
                await self._turn_away(error.http_status, refusal_of(self, error))
                return
            await self._turn_away(401, "this is no runner token for the node it names")
            return
        if self.request.headers.get("Upgrade", "").lower() != "websocket":
            # Else Tornado would answer in plain text.
            self.set_header("Allow", "GET")
            status = 405 if self.request.method != "GET" else 426
            await self._turn_away(status, "this path takes the WebSocket of a runner alone")
            return
        services.strangers.forget(stream_of(self.request))
        self.begin(name, services)

    def begin(self, name: str, services: Services) -> None:
        """Serve the runner of the node `name`, whose token has been seen."""
        self._name = name
        self._cluster = services.cluster
        self._known = []
        self._held = []
        loop = asyncio.get_running_loop()
        self._outbox = Outbox(lambda: loop.call_soon(self._flush))
        self._logs = services.subscriptions

    async def _turn_away(self, status: int, said: str | ErrorView) -> None:
        view = ErrorView(detail=said) if isinstance(said, str) else said
        self.set_status(status)
        self.set_header("Content-Type", JSON)
        await self.finish(msgspec.json.encode(view))

    def open(self, *_args: str, **_kwargs: str) -> None:
        """Send small messages at once: without this a task costs 40 ms more."""
        self.set_nodelay(True)

    def on_message(self, message: str | bytes) -> None:
        """Take in one message; nothing here waits, so that the next is read at once."""
        try:
            decoded = messages_from_runner(
                message if isinstance(message, bytes) else message.encode()
            )
        except msgspec.DecodeError as error:
            if not self._welcomed and (refusal := _of_another_version(message)) is not None:
                self._refuse(refusal)
                return
            logger.warning("%s sent what is no message: %s", self._name, error)
            self.close(1002, "no message of the runner link")
            return
        if self._exchanging and not self._fits(len(message)):
            return
        if self._welcomed:
            self._cluster.nodes.heard(self._name)
        for one in decoded:
            if isinstance(one, Hello):
                self._stored(self._greet(one))
            elif self._welcomed:
                self._take(one)

    def _fits(self, size: int) -> bool:
        """Whether what is told during the exchange is not too much to be kept; else, close."""
        if self._told_bytes > _MAX_EXCHANGE:
            return False
        self._told_bytes += size
        if self._told_bytes <= _MAX_EXCHANGE:
            return True
        logger.warning("%s tells of more than %d bytes of tasks", self._name, _MAX_EXCHANGE)
        self.disconnect("more tasks than a host takes in")
        return False

    def on_close(self) -> None:
        """Show the node as offline at once."""
        self._let_go(self.close_reason or "no reason given")

    def send(self, message: Message) -> None:
        """Send a message with this turn of the loop; it is lost if the link is broken."""
        encoded = encode(message)
        if isinstance(message, Launch) and len(encoded) > MAX_FRAME // 2:
            encoded = encode(LaunchWaiting(task_id=message.task_id))
        self._outbox.add(encoded)

    def _flush(self) -> None:
        for frame in self._outbox.take():
            try:
                # The future that this returns speaks of flow control; credit bounds what is sent.
                sent = self.write_message(frame, binary=True)
            except WebSocketClosedError:
                return
            sent.add_done_callback(lambda future: future.exception())

    def disconnect(self, reason: str) -> None:
        """Break the link; from now on nothing that still comes over it counts."""
        self._flush()
        # A peer that does not answer the close is cut off by Tornado after five seconds.
        self.close(1001, reason)
        self._let_go(reason)

    def _let_go(self, reason: str) -> None:
        if not self._welcomed:
            return
        self._welcomed = False
        logger.info("%s: link closed (%s)", self._name, reason)
        self._cluster.tally.link_losses[self._name] += 1
        # In this order: who follows a log over this link must find it gone.
        self._cluster.nodes.detach(self._name, self, self._cluster.spawn)
        self._logs.drop(self)

    async def _greet(self, hello: Hello) -> None:
        if self.ws_connection is None:
            return  # it has closed before its first word was taken in
        refusal = exchange.objection(self._cluster, self._name, hello)
        if refusal is not None:
            self._refuse(refusal)
            return
        before = self._cluster.nodes.find(self._name)
        if before is not None and before.link is not None:
            before.link.disconnect("its runner has linked up anew")
        self._welcomed = True
        await self._cluster.nodes.admit(self._name, hello, self)
        config = services_of(self.application).config
        self.send(
            Welcome(
                cluster_id=self._cluster.store.cluster_id,
                heartbeat_interval=config.timing.heartbeat_interval,
                version=__version__,
            )
        )

        if hello.info.version != __version__:
            logger.warning(
                "%s: its runner is hakuriver-jupyter %s, this host %s: they work together; "
                "upgrade the runner when its tasks allow",
                self._name,
                hello.info.version,
                __version__,
            )

    def _refuse(self, refusal: Refuse) -> None:
        logger.warning("%s: refused: %s", self._name, refusal.reason)
        self._cluster.nodes.refuse(self._name, refusal.reason, self._cluster.spawn)
        self.send(refusal)
        self._flush()
        self.close(1008, "refused")

    async def _reconcile(self) -> None:
        await exchange.reconcile(self._cluster, self._name, self, self._known)
        self._known = []
        self._exchanging = False
        held, self._held = self._held, []
        for message in held:
            self._take(message)
        if self._cluster.nodes.online_link(self._name) is self:
            logger.info("%s: online", self._name)

    def _stored(self, work: Coroutine[None, None, None]) -> None:
        """Do what writes to the store; if that fails, the runner's next exchange repeats it."""

        async def guarded() -> None:
            try:
                await work
            except StoreError as error:
                self.disconnect(str(error)[:100])
            except Exception:
                logger.exception("%s: what it told could not be taken in", self._name)
                self.disconnect("a fault of the host; its log has the details")

        self._cluster.spawn(guarded())

    def _take(self, message: Message) -> None:
        match message:
            case Known() if not self._told:
                self._known.append(message)
            case KnownEnd() if not self._told:
                self._told = True
                self._stored(self._reconcile())
            case Heartbeat():
                self._cluster.nodes.heard(self._name, message.metrics)
            case Started() | Finished() if self._exchanging:
                # It may be about a task whose `Known` has not been taken in yet.
                self._held.append(message)
            case Started():
                self._stored(self._cluster.started(self._name, message))
            case Finished():
                self._stored(self._cluster.finished(self._name, message))
            case Measured():
                self._cluster.measured(self._name, message)
            case Discarded():
                self._stored(retention.discarded(self._cluster, self._name, message.task_ids))
            case LogOpened() | LogChunk() | LogReset() | LogEnd():
                self._logs.deliver(self, message)
            case _:
                logger.warning("%s sent an unexpected %s", self._name, type(message).__name__)


def _of_another_version(message: str | bytes) -> Refuse | None:
    """Return why the sender of a first word that cannot be read is refused, if it says so much."""
    greeting = greeting_in(message if isinstance(message, bytes) else message.encode())
    if greeting is None:
        return None
    return reconcile.refusal_of(greeting.protocol, greeting.info.version[:200])


class WaitingLaunch(ApiHandler):
    """``GET /api/runner/launch/<id>``: a launch that was too large for the link."""

    def check_page(self) -> None:
        """Let every host name do: a runner may know another than pages may use."""

    def authenticate(self) -> str:
        """Ask for the token of the node that is named."""
        name = authenticated_node(self.request, self.services)
        if name is None:
            raise Unauthorized("this is no runner token for the node it names")
        return name

    async def get(self, task_id: str) -> None:
        """Answer the `Launch` message of a task that is assigned to the asking node."""
        cluster = self.services.cluster
        record = await cluster.get(parse_id(task_id))
        if record.node != self.owner or record.status is not TaskState.ASSIGNING:
            raise Conflict(f"task {task_id} does not wait to be started by {self.owner}")
        self.set_header("Content-Type", "application/msgpack")
        await self.finish(encode(await cluster.launch_message(record)))


class Check(ApiHandler):
    """``GET /api/runner/check``: whether a token speaks for a node, asked before it joins."""

    check_page = WaitingLaunch.check_page
    authenticate = WaitingLaunch.authenticate

    async def get(self) -> None:
        """Answer which cluster this is."""
        store = self.services.cluster.store
        await self.reply(Joining(node=self.owner, cluster_id=store.cluster_id, version=__version__))


OPERATIONS = [
    Operation(
        method="GET",
        path="/runner",
        summary="The link of a runner: a WebSocket",
        query=RunnerQuery,
        status=101,
        errors=(403, 426),
        access="runner",
        prefixed=True,
    ),
    Operation(
        method="GET",
        path="/runner/check",
        summary="Whether a token is good for a node",
        query=RunnerQuery,
        replies={JSON: Joining},
        access="runner",
        prefixed=True,
    ),
    Operation(
        method="GET",
        path="/runner/launch/{task_id}",
        summary="What to start, where it is too large for the link",
        query=RunnerQuery,
        replies={MSGPACK: None},
        errors=(404, 409),
        access="runner",
        prefixed=True,
    ),
]
ROUTES: list[tuple[str, Any]] = [
    (r"/api/runner", RunnerLink),
    (r"/api/runner/check", Check),
    (r"/api/runner/launch/([^/]+)", WaitingLaunch),
]
