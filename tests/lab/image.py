"""The machines' disks, in layers that are built when something in them has changed.

A release of Debian with our users and a venv of our dependencies (minutes), then the project's
wheel in it as a bootable disk (seconds). All layers are in a `Cache`.
"""

from __future__ import annotations

import os
import shutil
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lab import layers
from lab.layers import Release, make_base, make_disk, make_key, make_wheel
from support.processes import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lab.cache import Cache

_TOOLS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "mmdebstrap": "mmdebstrap",
    "mke2fs": "e2fsprogs",
    "ssh": "openssh-client",
    "xz": "xz-utils",
}
#: What each machine runs.
RELEASES = {"node1": Release("bookworm", "3.11"), "node2": Release("trixie", "3.13")}


@dataclass(frozen=True)
class Image:
    """What a machine boots: nothing of it is ever written to."""

    kernel: Path
    initrd: Path
    disk: Path
    key: Path


def check_prerequisites() -> None:
    """Fail with one sentence unless machines can be built and booted here."""
    assert os.geteuid() == 0, "the lab builds root file systems: run it as root"
    assert Path("/etc/debian_version").exists(), "the lab builds Debian machines: run it on Debian"
    missing = [package for tool, package in _TOOLS.items() if not shutil.which(tool)]
    assert not missing, f"the lab needs more packages: apt-get install {' '.join(missing)}"


def build(cache: Cache, tell: Callable[[str], None]) -> dict[str, Image]:
    """Return an image for each machine's name; what is in the cache already costs nothing."""
    check_prerequisites()
    with cache.locked():
        key = cache.entry("key", ["1"], make_key) / "id_ed25519"
        wheel = cache.entry("wheel", _source(), lambda folder: make_wheel(folder, tell))
        with ThreadPoolExecutor(len(RELEASES)) as pool:
            images = pool.map(lambda release: _image(cache, release, key, wheel, tell), _releases())
            found = dict(zip(_releases(), images, strict=True))
        cache.prune()
    return {name: found[release] for name, release in RELEASES.items()}


def _releases() -> list[Release]:
    return list(dict.fromkeys(RELEASES.values()))


def _image(
    cache: Cache, release: Release, key: Path, wheel: Path, tell: Callable[[str], None]
) -> Image:
    needs = _dependencies()
    public = key.with_suffix(".pub")
    base = cache.entry(
        f"base-{release.name}",
        [repr((release, needs)), public.read_bytes(), *_setup()],
        lambda folder: make_base(folder, release, needs, public, tell),
    )
    disk = cache.entry(
        f"disk-{release.name}",
        [base.name, wheel.name],
        lambda folder: make_disk(folder, base, wheel, tell),
    )
    return Image(base / "vmlinux", base / "initrd", disk / "disk.img", key)


def _setup() -> Iterator[bytes]:
    for path in [Path(layers.__file__), *sorted(layers.FILES.iterdir())]:
        yield path.name.encode()
        yield path.read_bytes()


def _dependencies() -> list[str]:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
    return [str(need) for need in project["dependencies"]]


def _source() -> Iterator[bytes]:
    """Yield what the wheel is made of, so that it need not be built to see whether it is new."""
    single = [REPOSITORY / name for name in ("pyproject.toml", "README.md", "LICENSE")]
    trees = [REPOSITORY / name for name in ("hakuriver", "jupyter_ext")]
    files = sorted(path for tree in trees for path in tree.rglob("*") if path.is_file())
    for path in [*single, *files]:
        if "__pycache__" not in path.parts:
            yield str(path.relative_to(REPOSITORY)).encode()
            yield path.read_bytes()
