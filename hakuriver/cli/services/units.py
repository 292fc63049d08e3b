"""The text of the unit under which systemd keeps a host or a runner. Does no input or output.

Sources: systemd.unit(5), systemd.service(5), systemd.kill(5), systemd.exec(5).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hakuriver.cli.services import sandbox
from hakuriver.cli.services.parts import STATE_DIRECTORY, checked, folders_of, tls_files, word
from hakuriver.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hakuriver.cli.services.parts import Folders, Service

_TEMPORARY = (Path("/tmp"), Path("/var/tmp"))  # noqa: S108 - systemd's names for them
_PRIVILEGED_PORTS = range(1, 1024)

_LIFE = """\
Restart=on-failure
RestartSec=5
# 2: the configuration cannot be used, and a new start would not mend it.
RestartPreventExitStatus=2
TimeoutStopSec=30
# A connection for everybody who watches; the second figure is systemd's own.
LimitNOFILE=65536:524288
"""

_RUNNER_LIFE = """\
# Tasks outlive the runner: when it stops or restarts, neither what supervises them in this
# control group nor a sudo at work may be signalled.
KillMode=process
# A task that is out of memory is no reason to stop the runner.
OOMPolicy=continue
"""


_RUNNER_LIMITS = """\
# The kernel counts an account's processes over all its tasks: where one task has taken what there
# is, the runner must still be able to end it.
LimitNPROC=infinity
"""


def unit(service: Service) -> str:
    """Return the unit's whole text.

    Raises:
        ConfigError: a path cannot be used by a service, or tasks could not reach the state.
    """
    folders = folders_of(service)
    target = "multi-user" if service.system else "default"
    parts = [
        f"# Written by `hakuriver.init service --{service.role}` from",
        f"# {checked(service.config_file)}",
        "# Write it anew when paths, port or launcher change there.",
        "",
        "[Unit]",
        *_order(service, folders),
        "",
        "[Service]",
        *_start(service, folders),
        _life(service),
        _fence(service, folders),
        "[Install]",
        f"WantedBy={target}.target",
    ]
    return "\n".join(parts) + "\n"


def _order(service: Service, folders: Folders) -> list[str]:
    """Return what the service is and what must be there before it."""
    lines = [f"Description=HakuRiver {service.role}"]
    if not service.system:
        return lines
    needed = (
        service.config_file,
        Path(service.python),
        *tls_files(service),
        *folders.own,
        *folders.shared,
    )
    account, after = service.account, "network-online.target"
    if service.role == "runner" and not account.root:
        # Without a rule for sudo, tasks are units of the account's own manager.
        after += f" user@{account.uid}.service"
    return [
        *lines,
        "Wants=network-online.target",
        f"After={after}",
        f"RequiresMountsFor={_words(needed)}",
    ]


def _start(service: Service, folders: Folders) -> list[str]:
    """Return how the service is started, and as whom."""
    lines = ["Type=exec"]
    if not service.system:
        # In the home, `python -m` would take a user's file for a module.
        lines.append("WorkingDirectory=/")
    elif not service.account.root:
        lines.append(f"User={service.account.name}")
    return [
        *lines,
        *_made(service, folders),
        "# The colon: dollars in paths stay.",
        f"ExecStart=:{_command(service)}",
        f"SyslogIdentifier=hakuriver-{service.role}",
    ]


def _command(service: Service) -> str:
    if set(service.python) & set("\"'\\"):
        raise ConfigError(
            f"{service.python}: systemd starts no program whose path holds a quote or a "
            "backslash: install HakuRiver elsewhere"
        )
    return f"{word(service.python)} -m hakuriver {service.role} -c {word(service.config_file)}"


def _made(service: Service, folders: Folders) -> list[str]:
    """Return the lines that have the service's own folders made, where it cannot do so itself."""
    if not service.system:
        return []
    root, own, lines = service.account.root, folders.own, list[str]()
    if folders.state == (STATE_DIRECTORY if root else STATE_DIRECTORY / service.role):
        lines += [
            f"StateDirectory={folders.state.relative_to(STATE_DIRECTORY.parent)}",
            f"StateDirectoryMode={'0711' if root else '0700'}",
        ]
        own.remove(folders.state)
    if not (service.strict and own):
        return lines
    lines.append("# Made outside the sandbox (+), which can open only folders that are there.")
    if not root:
        account = service.account
        become = f"/usr/bin/setpriv --reuid={account.uid} --regid={account.gid} --init-groups"
        return [*lines, f"ExecStartPre=+:{become} /bin/mkdir -p -- {_words(own)}"]
    # The account that tasks run as passes through the state, but not through the log's folder.
    modes = {folders.state: "0711"}
    return [
        *lines,
        *(
            f"ExecStartPre=+:/bin/mkdir -p -m {modes.get(path, '0700')} -- {word(path)}"
            for path in dict.fromkeys(own)
        ),
    ]


def _life(service: Service) -> str:
    """Return when the service is restarted, and what a stop does."""
    if service.role == "host":
        return f"{_LIFE}UMask=0077\n"
    # Tasks that are the runner's own offspring keep the mask that systemd gives everybody.
    mask = "UMask=0077\n" if sandbox.apart(service.config.runner.launcher) else ""
    limits = _RUNNER_LIMITS if service.system else ""
    return f"{_LIFE}{mask}{limits}{_RUNNER_LIFE}"


def _fence(service: Service, folders: Folders) -> str:
    """Return the sandbox and what is open in it."""
    config, system = service.config, service.system
    if service.role == "host":
        low_port = config.network.host_port in _PRIVILEGED_PORTS
        text = sandbox.host(system=system, low_port=low_port)
    else:
        text = sandbox.runner(config.runner.launcher, system=system, root=service.account.root)
    if not service.strict:
        return text
    # A host only reads what all share.
    writable = [*folders.own, *(folders.shared if service.role == "runner" else ())]
    needed = (
        *folders.own,
        *folders.shared,
        *tls_files(service),
        service.config_file,
        Path(service.python),
    )
    if any(path.is_relative_to(base) for path in needed for base in _TEMPORARY):
        text += "# PrivateTmp= would hide paths that are in use.\n"
        writable += _TEMPORARY
    else:
        text += "PrivateTmp=yes\n"
    text += "# The service itself tells what is missing (-).\n"
    return f"{text}ReadWritePaths={_words(writable, mark='-')}\n"


def _words(paths: Iterable[Path], *, mark: str = "") -> str:
    return " ".join(dict.fromkeys(word(f"{mark}{path}") for path in paths))
