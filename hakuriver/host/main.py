"""A host's life: open the store, listen, watch for silent nodes, end in order."""

from __future__ import annotations

import asyncio
import logging
import resource
import signal
import time
from typing import TYPE_CHECKING

from tornado.netutil import bind_sockets

from hakuriver import rlimits, tls
from hakuriver.errors import StartError, StoreError
from hakuriver.host import exchange, retention
from hakuriver.host.app import make_app
from hakuriver.host.auth import Gate
from hakuriver.host.cluster import Cluster
from hakuriver.host.listening import Server
from hakuriver.host.logs import Subscriptions
from hakuriver.host.services import Services
from hakuriver.host.store import Store
from hakuriver.model.auth import cluster_id

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from hakuriver.config import Config

logger = logging.getLogger(__name__)

# A pause this much longer than asked for, in seconds, is no node's silence.
_STANDSTILL = 1.0
# Requests under way get so long to end when the host is told to.
_CLOSE_SECONDS = 2.0
_DAY = 86400.0
# A certificate that ends in so many days is warned of at the start.
_RENEW_DAYS = 30.0


async def serve(config: Config, *, listening: Callable[[str, int], None] | None = None) -> None:
    """Run a host until SIGTERM or SIGINT.

    Args:
        config: its settings; port 0 takes a free one.
        listening: called with address and port once the host answers.

    Raises:
        ConfigError: the security settings would leave it open or locked, or its certificate
            cannot be used.
        StoreError: the database cannot be used.
        StartError: the address cannot be listened on.
    """
    stop = _stop_on_signals()
    rlimits.lift(resource.RLIMIT_NOFILE)
    served = await asyncio.to_thread(tls.serving, config.network)
    gate = Gate(config, names=served.names if served else ())
    # Before the database: a second host on the same port must not touch anything.
    sockets = _bind(config)
    own = config.security.cluster_id or cluster_id(config.security.runner_secret)
    try:
        store = await asyncio.to_thread(Store, config.db_file, cluster_id=own)
    except BaseException:
        for each in sockets:
            each.close()
        raise
    cluster = Cluster(store)
    await cluster.load()
    services = Services(
        config,
        gate,
        cluster,
        Subscriptions(cluster.tally),
        certificate_end=served.not_after if served else None,
    )
    server = Server(
        make_app(services),
        context=served.context if served else None,
        strangers=services.strangers,
        tally=cluster.tally,
    )
    server.add_sockets(sockets)
    watch = {
        asyncio.create_task(_watch(cluster, config), name="silent nodes"),
        asyncio.create_task(retention.run(cluster, config.retention), name="retention"),
    }
    address, port = sockets[0].getsockname()[:2]
    scheme = "https" if served else "http"
    logger.info("Listening on %s://%s:%s, database %s", scheme, address, port, config.db_file)
    _warn_of_end(served)
    if listening is not None:
        listening(address, port)
    await stop.wait()
    logger.info("Stopping; tasks go on")
    server.stop()
    for task in watch:
        task.cancel()
    await cluster.close()
    await asyncio.wait(
        {*watch, asyncio.create_task(server.close_all_connections())}, timeout=_CLOSE_SECONDS
    )
    await asyncio.to_thread(store.close)


def _warn_of_end(served: tls.Served | None) -> None:
    left = _RENEW_DAYS if served is None else (served.not_after - time.time()) / _DAY
    if left < _RENEW_DAYS:
        logger.warning(
            "The certificate of network.tls_cert expires in %.1f days: `hakuriver.init --tls` "
            "renews one that it made",
            left,
        )


def _stop_on_signals() -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


def _bind(config: Config) -> list[socket.socket]:
    address, port = config.network.host_bind_ip, config.network.host_port
    try:
        return bind_sockets(port, address)
    except OSError as error:
        raise StartError(
            f"cannot listen on {address}:{port} ({error.strerror}); stop what does, or set "
            "network.host_bind_ip and network.host_port"
        ) from None


async def _watch(cluster: Cluster, config: Config) -> None:
    """Look for nodes that have fallen silent, for as long as the host lives."""
    silence = config.timing.heartbeat_interval * config.timing.heartbeat_timeout_factor
    interval = config.timing.cleanup_check_interval
    while True:
        before = time.monotonic()
        await asyncio.sleep(interval)
        stood = time.monotonic() - before - interval
        if stood > _STANDSTILL:
            # This process stood still: the nodes' words may wait unread, they were not silent.
            logger.warning("The host stood still for %.1f s", stood)
            cluster.nodes.excuse(stood)
            continue
        try:
            await exchange.sweep(cluster, silence)
        except StoreError:
            # The store has logged why; the next look does what this one could not.
            continue
        except Exception:
            logger.exception("Looking for silent nodes failed; the next look is to come")
