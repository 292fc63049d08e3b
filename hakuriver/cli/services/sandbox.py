"""The lines that fence in a unit of systemd's, each with its reason for the admin who reads it.

Source: systemd.exec(5) of systemd 252. What is listed there as implying ``NoNewPrivileges=`` must
not stand in the unit of a runner that starts tasks with sudo. What needs a mount namespace is
refused by a user's own manager.
"""

from __future__ import annotations

# Works in every manager.
_EVERYWHERE = """\
# No program that it starts can gain rights (setuid, file capabilities).
NoNewPrivileges=yes
LockPersonality=yes
# No memory that is writable and executable: Python's ctypes works without.
MemoryDenyWriteExecute=yes
# The network, and local sockets for the journal and for D-Bus.
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
# A call that is not allowed fails, as if rights were missing, and ends nothing.
SystemCallErrorNumber=EPERM
"""

# Works in the system's manager.
_MACHINE = """\
# Everything is read-only but what ReadWritePaths= and StateDirectory= name.
ProtectSystem=strict
# Python, the configuration or the state may lie in a home, so homes cannot be hidden.
ProtectHome=read-only
PrivateDevices=yes
PrivateIPC=yes
PrivateMounts=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
"""

_HOST_CALLS = """\
# A network service's calls, without those that only a privileged program can use.
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
"""

_HOST_PROCESSES = """\
# It looks at no process but itself.
ProtectProc=invisible
ProcSubset=pid
"""

_HOST_RIGHTS = """\
CapabilityBoundingSet=
# No other account exists for it, root neither.
PrivateUsers=yes
"""

_HOST_LOW_PORT = """\
# A port below 1024 needs this one right, which holds in no user namespace: no PrivateUsers=.
CapabilityBoundingSet=CAP_NET_BIND_SERVICE
AmbientCapabilities=CAP_NET_BIND_SERVICE
"""

_ROOT_RUNNER = """\
# Files are given to the account that tasks run as, and its files read, changed and removed.
# systemd takes orders from root without any capability.
CapabilityBoundingSet=CAP_CHOWN CAP_DAC_OVERRIDE CAP_FOWNER CAP_KILL
# A service's calls, and chown; numactl needs @resources, which is in @system-service.
SystemCallFilter=@system-service
SystemCallFilter=~@privileged
SystemCallFilter=@chown
"""

_SUDO_RUNNER = """\
# Tasks are started by sudo, which must be able to become root. So nothing may stand here that
# sets NoNewPrivileges= or implies it (see systemd.exec(5)), nor a smaller CapabilityBoundingSet=.
ProtectSystem=full
ProtectControlGroups=yes
"""

_OPEN_RUNNER = """\
# No sandbox: with runner.launcher = "{launcher}" tasks descend from this service and would be in
# it too. So there is no limit on how many processes all of them have, and no UMask= either.
TasksMax=infinity
"""

_USER_RUNNER = """\
# No sandbox: tasks may be started by sudo, which needs to gain rights, and the rest is more than
# a user's own manager can do.
"""


def host(*, system: bool, low_port: bool) -> str:
    """Return the lines for a host; `low_port`: it listens on a port below 1024."""
    if not system:
        return _EVERYWHERE + _HOST_CALLS
    rights = _HOST_LOW_PORT if low_port else _HOST_RIGHTS
    return _EVERYWHERE + _MACHINE + rights + _HOST_PROCESSES + _HOST_CALLS


def runner(launcher: str, *, system: bool, root: bool) -> str:
    """Return the lines for a runner; `root`: it runs as root, in the system's manager."""
    if not apart(launcher):
        return _OPEN_RUNNER.format(launcher=launcher)
    if not system:
        return _USER_RUNNER
    return _EVERYWHERE + _MACHINE + _ROOT_RUNNER if root else _SUDO_RUNNER


def apart(launcher: str) -> bool:
    """Return whether tasks are units of their own, to which a runner's sandbox means nothing.

    The others inherit it: systemd starts no process for a scope, it adopts the runner's child.
    """
    return launcher in ("auto", "service")
