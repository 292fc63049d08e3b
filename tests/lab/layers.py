"""How each layer of a machine is made, in a folder of its own.

Whatever is said here or in `FILES` goes into the names of what is made of it.
"""

from __future__ import annotations

import lzma
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lab.cache import scratch
from support.processes import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: What goes into the machines, and the script that puts it there.
FILES = Path(__file__).with_name("files")
PACKAGES = (
    *("systemd", "systemd-sysv", "dbus", "dbus-user-session", "libpam-systemd", "sudo", "udev"),
    *("numactl", "python3", "python3-venv", "iproute2", "procps", "util-linux", "mount", "login"),
    *("passwd", "kmod", "openssh-server", "hostname", "busybox-static"),
)
LEFT_OUT = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*")
_XZ = b"\xfd7zXZ\x00"


@dataclass(frozen=True)
class Release:
    """One of Debian's, and the Python that it has."""

    name: str
    python: str


def make_key(folder: Path) -> None:
    """Make the key that opens all machines."""
    _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", folder / "id_ed25519")


def make_wheel(folder: Path, tell: Callable[[str], None]) -> None:
    """Build the project's wheel from this checkout."""
    tell("building the wheel")
    _run(*_pip("wheel"), "--no-deps", "--wheel-dir", folder, REPOSITORY)


def make_base(
    folder: Path, release: Release, needs: Sequence[str], key: Path, tell: Callable[[str], None]
) -> None:
    """Make ``rootfs.tar``, with a venv of what `needs` says, and the ``vmlinux`` and ``initrd``."""
    tell(f"building {release.name} from nothing (a minute or two)")
    wheels = folder / "wheels"
    # For another Python than this one, so only what needs no building; markers are this one's.
    platforms = [f"--platform=manylinux{kind}_x86_64" for kind in ("2014", "_2_17", "_2_28")]
    python = [f"--python-version={release.python}", "--implementation=cp", *platforms]
    _run(*_pip("download"), "--only-binary=:all:", *python, "-d", wheels, *needs)
    setup = shlex.join(map(str, (folder, wheels, key)))
    _run(
        "mmdebstrap",
        "--quiet",
        "--variant=essential",
        f"--include={','.join(PACKAGES)}",
        '--aptopt=Acquire::Languages "none"',
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in LEFT_OUT),
        f'--customize-hook=sh {shlex.quote(str(FILES / "customize.sh"))} "$1" {setup}',
        release.name,
        folder / "rootfs.tar",
        TMPDIR=str(scratch()),
    )
    shutil.rmtree(wheels)
    _unpack_kernel(folder / "vmlinuz", folder / "vmlinux")
    tell(f"{release.name} is built")


def _unpack_kernel(packed: Path, plain: Path) -> None:
    """Take out the kernel proper: xz unpacks itself for eight seconds under emulation.

    Kernels that were packed otherwise are quicker, and stay as they are.
    """
    data = packed.read_bytes()
    start = data.find(_XZ)
    if start < 0:
        packed.rename(plain)
        return
    plain.write_bytes(lzma.LZMADecompressor().decompress(data[start:]))
    packed.unlink()


def make_disk(folder: Path, base: Path, wheel: Path, tell: Callable[[str], None]) -> None:
    """Make ``disk.img``: the base with the wheel in its venv."""
    tell(f"putting the wheel on a disk: {folder.name.partition('.')[0]}")
    with tempfile.TemporaryDirectory(prefix="hakuriver-lab-", dir=scratch()) as there:
        root = Path(there) / "root"
        root.mkdir(0o755)
        _run(
            "tar", "-xpf", base / "rootfs.tar", "--numeric-owner", "--xattrs-include=*", "-C", root
        )
        for file in wheel.glob("*.whl"):
            shutil.copy(file, root / "tmp")
            python = ("chroot", root, "/opt/hakuriver/bin/python", "-m", "pip")
            options = ("--no-deps", "--no-index", "--root-user-action=ignore")
            _run(*python, "install", "-q", *options, f"/tmp/{file.name}")
            (root / "tmp" / file.name).unlink()
        disk = folder / "disk.img"
        _run("mke2fs", "-q", "-t", "ext4", "-m", "0", "-J", "size=16", "-d", root, disk, "3000M")


def _pip(command: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "pip", command, "-q", "--disable-pip-version-check")


def _run(*command: str | Path, **more: str) -> None:
    done = subprocess.run(
        command, env={**os.environ, **more}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command} exited {done.returncode}:\n{done.stderr[-4000:]}"
