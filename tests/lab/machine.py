"""One machine of the lab: real systemd, cgroups and NUMA nodes, by emulation without KVM."""

from __future__ import annotations

import json
import re
import shlex
import socket
import subprocess
import threading
from typing import TYPE_CHECKING, Any

from lab.ssh import Connections
from support.processes import free_port, wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from lab.image import Image

#: How the inside reaches the outside's loopback address.
OUTSIDE = "10.0.2.2"

_READY = re.compile(rb"LAB-READY (\S+) (\S+)\r?\n")
_BOOT_TIMEOUT = 240.0
_MEMORY = 512
# More than one thread locks up in the guest.
_PROCESSORS = ["-accel", "tcg,thread=single", "-cpu", "max", "-smp", "4,sockets=2,cores=2"]
# A shorter boot: no mitigations of a processor that is not there, no self-tests, few messages.
_KERNEL = (
    "console=ttyS0 loglevel=4 panic=-1 mitigations=off nokaslr random.trust_cpu=on audit=0 "
    "rcupdate.rcu_expedited=1 nowatchdog cryptomgr.notests net.ifnames=0 systemd.show_status=no"
)


class Machine:
    """A machine that boots `image` freshly; its own changes last until `close`.

    It starts processes that die with the thread that boots it, so `boot` is for the main thread.
    """

    def __init__(self, name: str, image: Image, folder: Path, shared: Path) -> None:
        folder.mkdir(parents=True)
        self.name = name
        self._image = image
        self._folder = folder
        self._shared = shared
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._seen = 0
        self._ssh = Connections(folder, self._port, image.key)
        self._disk = folder / "disk.qcow2"
        backing = ["-b", str(image.disk), "-F", "raw"]
        command = ["qemu-img", "create", "-q", "-f", "qcow2", *backing, str(self._disk)]
        subprocess.run(command, check=True)

    @property
    def pid(self) -> int:
        """The emulator's process."""
        assert self._process is not None, f"{self.name} is off"
        return self._process.pid

    @property
    def boot_id(self) -> str:
        """The id of this boot; another one after each `reboot`."""
        return self.run("cat /proc/sys/kernel/random/boot_id").stdout.strip()

    def ssh_line(self, user: str = "root") -> str:
        """Return what a person types to get in."""
        return self._ssh.line(user)

    # Power.

    def boot(self, *, wait: bool = True) -> None:
        """Switch on; without `wait`, return at once, for `wait_up` later on."""
        assert threading.current_thread() is threading.main_thread()
        assert self._process is None, f"{self.name} is on already"
        self._seen = len(self._ready())
        with (self._folder / "qemu.log").open("ab") as log:
            self._process = subprocess.Popen(
                # Whatever becomes of the tests, no machine outlives them.
                ["setpriv", "--pdeathsig", "KILL", *self._command()],
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        if wait:
            self.wait_up()

    def wait_up(self, *, timeout: float = _BOOT_TIMEOUT) -> None:
        """Wait until the machine itself has said that it is up, all of its start jobs done."""

        def up() -> bool:
            self.check_alive()
            return len(self._ready()) > self._seen

        try:
            wait_until(up, timeout=timeout, interval=0.1, what=f"{self.name} up")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.console()[-4000:]}") from None
        self._seen = len(self._ready())

    def reboot(self) -> None:
        """Restart in good order, and wait until the machine is up again.

        The emulator ends where the machine resets itself, and another one boots from the same
        disk: a reset inside one emulator left the processors spinning before the kernel.
        """
        process, before = self._process, self.boot_id
        assert process is not None
        self.run("systemctl reboot", check=False)
        wait_until(lambda: process.poll() is not None, timeout=120, what=f"{self.name} down")
        self.power_off()
        self.boot()
        assert self.boot_id != before

    def power_off(self) -> None:
        """Pull the plug: what the machine had not written to its disk is lost."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
        self._ssh.close()

    def close(self) -> None:
        """Pull the plug and throw the disk away."""
        self.power_off()
        self._disk.unlink(missing_ok=True)

    def check_alive(self) -> None:
        """Fail if the emulator has ended by itself."""
        assert self._process is not None, f"{self.name} is off"
        code = self._process.poll()
        log = (self._folder / "qemu.log").read_text("utf-8", "replace")
        assert code is None, f"qemu ended with {code}:\n{log}"

    # Inside.

    def run(
        self,
        command: str | Sequence[str],
        *,
        user: str = "root",
        timeout: float = 150,
        stdin: bytes = b"",
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell's line, or one command's words, as `user`; see `Connections.run`."""
        return self._ssh.run(command, user=user, timeout=timeout, stdin=stdin, check=check)

    def write_file(
        self, path: str, content: str | bytes, *, mode: int = 0o644, owner: str = "root"
    ) -> None:
        """Write a file of `owner`, whole or not at all; missing folders become the owner's."""
        data = content.encode() if isinstance(content, str) else content
        name, new = shlex.quote(path), shlex.quote(f"{path}.new")
        folder = f'd=$(dirname {name}); [ -d "$d" ] || install -d -o {owner} -g {owner} "$d"'
        keep = f"umask 077; cat > {new}; chmod {mode:o} {new}; chown {owner}: {new}"
        self.run(f"set -e; {folder}; {keep}; mv {new} {name}", stdin=data)

    def console(self) -> str:
        """Return all that the machine has written to its console since it was made."""
        return self._console().decode("utf-8", "replace")

    # Faults, made without the machine's help.

    def cut_network(self) -> None:
        """Pull the cable; the machine keeps its address. `run` hangs until `mend_network`."""
        self._monitor("set_link", name="nic0", up=False)

    def mend_network(self) -> None:
        """Plug the cable in again."""
        self._monitor("set_link", name="nic0", up=True)

    def pause(self) -> None:
        """Stop all of the machine's processors; its clocks stop with them."""
        self._monitor("stop")

    def resume(self) -> None:
        """Let the processors run on."""
        self._monitor("cont")

    def _monitor(self, command: str, **arguments: object) -> Any:
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(20)
            control.connect(str(self._folder / "qmp"))
            lines = control.makefile("rb")
            json.loads(lines.readline())
            for name, words in (("qmp_capabilities", {}), (command, arguments)):
                control.sendall(json.dumps({"execute": name, "arguments": words}).encode())
                # Events may come in between.
                while "return" not in (reply := json.loads(lines.readline())):
                    assert "error" not in reply, reply
            return reply["return"]

    def _ready(self) -> list[bytes]:
        return _READY.findall(self._console())

    def _console(self) -> bytes:
        path = self._folder / "console.log"
        return path.read_bytes() if path.exists() else b""

    def _command(self) -> list[str]:
        console = f"file,id=console,path={self._folder}/console.log,append=on"
        share = f"local,path={self._shared},mount_tag=shared,security_model=none,id=shared"
        nodes: list[str] = []
        for node, cpus in enumerate(("0-1", "2-3")):
            nodes += ["-object", f"memory-backend-ram,id=m{node},size={_MEMORY}M"]
            nodes += ["-numa", f"node,nodeid={node},memdev=m{node},cpus={cpus}"]
        return [
            *("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-no-reboot"),
            *("-display", "none"),
            *(*_PROCESSORS, "-m", str(2 * _MEMORY), *nodes, "-numa", "dist,src=0,dst=1,val=20"),
            *("-kernel", str(self._image.kernel), "-initrd", str(self._image.initrd)),
            *("-append", f"{_KERNEL} systemd.hostname={self.name}"),
            *("-drive", f"file={self._disk},if=virtio,format=qcow2", "-virtfs", share),
            *("-netdev", f"user,id=net0,hostfwd=tcp:127.0.0.1:{self._port}-:22"),
            *("-device", "virtio-net-pci,netdev=net0,id=nic0"),
            *("-chardev", console, "-serial", "chardev:console"),
            *("-qmp", f"unix:{self._folder}/qmp,server=on,wait=off"),
        ]
