"""Commands inside a machine, over one standing connection for each user."""

from __future__ import annotations

import shlex
import subprocess
from typing import TYPE_CHECKING

from support.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_UIDS = {"root": 0, "haku": 1000, "worker": 1001, "lin": 1002}
_OPTIONS = {
    "BatchMode": "yes",
    "ConnectTimeout": "60",
    "StrictHostKeyChecking": "no",
    "UserKnownHostsFile": "/dev/null",
    "LogLevel": "ERROR",
    # The one that costs least under emulation.
    "KexAlgorithms": "curve25519-sha256",
}


class Connections:
    """The connections to a machine whose sshd is at `port` of the loopback address."""

    def __init__(self, folder: Path, port: int, key: Path) -> None:
        self._folder = folder
        self._port = port
        self._key = key
        self._masters: dict[str, subprocess.Popen[bytes]] = {}

    def line(self, user: str = "root") -> str:
        """Return what a person types to get in."""
        return shlex.join(["ssh", *self._options(), f"{user}@127.0.0.1"])

    def run(
        self, command: str | Sequence[str], *, user: str, timeout: float, stdin: bytes, check: bool
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell's line, or one command's words; with `check`, fail unless it exits 0.

        Output is decoded so that encoding it with ``surrogateescape`` gives back the same bytes.
        """
        line = command if isinstance(command, str) else shlex.join(command)
        # No login here starts a session, so this is how a user manager is found.
        line = f"export XDG_RUNTIME_DIR=/run/user/{_UIDS[user]}; {line}"
        # Without the standing connection it must fail, not make another one.
        options = ["-S", str(self._master(user)), "-o", "ProxyCommand=false"]
        done = subprocess.run(
            ["ssh", *options, *self._options(), f"{user}@127.0.0.1", line],
            input=stdin,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
        out, err = (text.decode("utf-8", "surrogateescape") for text in (done.stdout, done.stderr))
        shown = f"{command} exited {done.returncode}\nstdout: {out}\nstderr: {err}"
        assert not check or done.returncode == 0, shown
        return subprocess.CompletedProcess(command, done.returncode, out, err)

    def close(self) -> None:
        """End the connections; they are made anew when they are needed."""
        for user, master in self._masters.items():
            master.terminate()
            master.wait(10)
            self._socket(user).unlink(missing_ok=True)
        self._masters.clear()

    def _master(self, user: str) -> Path:
        socket = self._socket(user)
        master = self._masters.get(user)
        if master is not None and master.poll() is None:
            return socket
        if master is not None:
            socket.unlink(missing_ok=True)
        master = subprocess.Popen(
            ["ssh", "-M", "-N", "-S", str(socket), *self._options(), f"{user}@127.0.0.1"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._masters[user] = master

        def there() -> bool:
            assert master.poll() is None, f"ssh for {user} ended with {master.poll()}"
            return socket.exists()

        wait_until(there, timeout=60, what=f"a connection as {user}")
        return socket

    def _socket(self, user: str) -> Path:
        return self._folder / f"ssh-{user}"

    def _options(self) -> list[str]:
        options = [f"-o{name}={value}" for name, value in _OPTIONS.items()]
        return ["-F", "/dev/null", "-i", str(self._key), "-p", str(self._port), *options]
