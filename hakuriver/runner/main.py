"""A runner from its settings: checks them, puts the agent together, serves until told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pwd
import resource
import shutil
import signal
import socket
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from hakuriver import rlimits, tls
from hakuriver.errors import ConfigError, InvalidRequest
from hakuriver.logfiles import TaskFiles
from hakuriver.model.auth import runner_token
from hakuriver.model.targets import check_node_name
from hakuriver.runner.agent import Agent, AgentSettings
from hakuriver.runner.environment import Surroundings
from hakuriver.runner.launchers.process import shut_down
from hakuriver.runner.launching import find_launcher
from hakuriver.runner.logcaps import cap_of
from hakuriver.runner.numa import find_numactl
from hakuriver.runner.probe import SYSFS, probe
from hakuriver.runner.state import StateFolder

if TYPE_CHECKING:
    from collections.abc import Generator

    from hakuriver.config import Config
    from hakuriver.runner.launching import Launching

_log = logging.getLogger(__name__)


def node_name(config: Config) -> str:
    """Return the node's name: ``runner.name``, else the machine's host name."""
    name = config.runner.name or socket.gethostname()
    try:
        return check_node_name(name)
    except InvalidRequest as error:
        raise ConfigError(f"runner.name: {error.reason}") from None


def state_folder(config: Config) -> StateFolder:
    """Return where this runner keeps what it must not lose; each name has a folder of its own."""
    return StateFolder(config.state_dir / "runner" / node_name(config))


def node_token(config: Config) -> str:
    """Return the token with which this runner speaks for its node."""
    security = config.security
    if security.runner_token:
        return security.runner_token
    if security.runner_secret:
        return runner_token(security.runner_secret, node_name(config))
    raise ConfigError(
        "security.runner_token: this runner has no token; put the host's security.runner_secret "
        "or the token made for this node into the configuration file"
    )


async def serve(
    config: Config, *, default_workdir: Path | None = None, sysfs: Path = SYSFS
) -> None:
    """Be a runner until SIGTERM or SIGINT; tasks go on when it ends.

    Args:
        config: the settings.
        default_workdir: where tasks start when neither they nor the shared directory say so;
            None for a folder of each task's own.
        sysfs: where the machine's topology and use are read.

    Raises:
        ConfigError: a setting cannot be used; the message names it.
        StartError: another runner works in the same folder, or the host refuses this one.
    """
    # Tasks of the same user count against it.
    rlimits.lift(resource.RLIMIT_NPROC, resource.RLIMIT_NOFILE)
    state = state_folder(config)
    around = await asyncio.to_thread(_surroundings, config, default_workdir)
    files = TaskFiles(around.shared_dir or state.root)
    await asyncio.to_thread(state.make)
    lock = await asyncio.to_thread(state.lock)
    try:
        launching = await asyncio.to_thread(find_launcher, config, state, files)
        if launching.account is not None:
            files = replace(files, owner=launching.account.uid)
        settings = await asyncio.to_thread(_settings, config, around, launching, sysfs)
        with _stop_signals() as stop:
            agent = await Agent.open(
                settings, state=state, files=files, launcher=launching.launcher
            )
            _log.info("runner %s serves %s", settings.name, settings.url)
            try:
                await _until(stop, agent)
            finally:
                await agent.close()
    finally:
        os.close(lock)


async def end_tasks(config: Config) -> None:
    """End every task of this runner and the keeper with it; return when all are gone."""
    await shut_down(state_folder(config).keeper, grace=config.timing.kill_grace)


async def _until(stop: asyncio.Event, agent: Agent) -> None:
    """Run the agent until `stop` is set or it fails."""
    running = asyncio.create_task(agent.run(), name="agent")
    stopping = asyncio.create_task(stop.wait(), name="stop signal")
    try:
        await asyncio.wait((running, stopping), return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
    finally:
        for task in (running, stopping):
            task.cancel()
        await asyncio.wait((running, stopping))


@contextlib.contextmanager
def _stop_signals() -> Generator[asyncio.Event]:
    """Give an event that SIGTERM and SIGINT set."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        loop.add_signal_handler(number, stop.set)
    try:
        yield stop
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def _settings(
    config: Config, around: Surroundings, launching: Launching, sysfs: Path
) -> AgentSettings:
    account = launching.account
    if account is not None:
        around = msgspec.structs.replace(around, home=account.home, user=account.name)
    numactl = find_numactl(config.paths.numactl_path)
    return AgentSettings(
        name=node_name(config),
        url=config.host_url,
        token=node_token(config),
        info=probe(
            config,
            launcher=launching.name,
            able=launching.capabilities,
            sysfs=sysfs,
            numactl=numactl,
        ),
        around=around,
        grace=config.timing.kill_grace,
        numactl=numactl,
        sysfs=sysfs,
        pins=launching.pins,
        writes_scripts=launching.account is None,
        max_log_bytes=cap_of(config.runner.max_log_bytes),
        trust=tls.trusting(config.network.tls_ca) if config.host_url.startswith("https:") else None,
    )


def _surroundings(config: Config, default_workdir: Path | None) -> Surroundings:
    user = pwd.getpwuid(os.getuid())
    return Surroundings(
        node=node_name(config),
        home=_text("HOME", os.environ.get("HOME", user.pw_dir)),
        user=user.pw_name,
        path=_text("PATH", os.environ.get("PATH", os.defpath)),
        temp_dir=tempfile.gettempdir(),
        python=_python(config.runner.python),
        work_root=state_folder(config).work,
        shared_dir=_folder("paths.shared_dir", config.paths.shared_dir),
        local_temp_dir=_folder("paths.local_temp_dir", config.paths.local_temp_dir),
        default_workdir=default_workdir,
    )


def _text(variable: str, value: str) -> str:
    """Return a variable's value that tasks will get; refuse bytes that no message can carry."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ConfigError(
            f"{variable}: holds bytes that are no UTF-8; set it without them"
        ) from None
    return value


def _python(wanted: str) -> str:
    """Return the interpreter's absolute path: its folder becomes the first of a task's PATH."""
    found = shutil.which(wanted) if wanted else sys.executable
    if not found:
        raise ConfigError(f"runner.python = {wanted!r}: there is no such program on this machine")
    return str(Path(found).absolute())


def _folder(key: str, text: str) -> Path | None:
    """Return the configured folder, None for none; refuse one that cannot be written to."""
    if not text:
        return None
    path = Path(text).expanduser().absolute()
    if not path.is_dir():
        raise ConfigError(f"{key}: there is no directory {path}: make it, or correct the key")
    try:
        with tempfile.TemporaryFile(dir=path):
            return path
    except OSError as error:
        raise ConfigError(f"{key}: {path} is not writable: {error.strerror}") from None
