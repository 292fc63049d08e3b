"""The runner's folder on its machine: what lies where, who it is, and that it is alone there."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path

import msgspec

from hakuriver.disk import Taken, lock_alone, make_private, write_private
from hakuriver.errors import ConfigError, StartError

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """`node_uid` names the folder for ever; `cluster_id` the cluster it last belonged to."""

    node_uid: str
    cluster_id: str | None = None


@dataclass(frozen=True, slots=True)
class StateFolder:
    """The tree under `root`; all methods block on the disk."""

    root: Path

    @property
    def journal(self) -> Path:
        """The tasks it was given."""
        return self.root / "journal.ndjson"

    @property
    def keeper(self) -> Path:
        """The keeper's own folder."""
        return self.root / "keeper"

    @property
    def units(self) -> Path:
        """What tasks' units and the runner know each other by."""
        return self.root / "units"

    @property
    def work(self) -> Path:
        """The tasks' own working directories, one each."""
        return self.root / "work"

    def make(self) -> None:
        """Make the folders, for their owner alone."""
        for folder in (self.root, self.keeper, self.work):
            try:
                make_private(folder)
            except OSError as error:
                raise ConfigError(
                    f"paths.state_dir: cannot make {folder}: {error.strerror}"
                ) from None

    def lock(self) -> int:
        """Claim the folder for this process until the returned descriptor is closed.

        Raises:
            StartError: another runner has it.
        """
        try:
            return lock_alone(self.root / "runner.lock")
        except Taken as taken:
            raise StartError(
                f"another runner (pid {taken.pid}) works in {self.root}: stop it first, or give "
                "this one another name (runner.name) or folder (paths.state_dir)"
            ) from None

    def identity(self) -> Identity:
        """Return who this folder is, made up at the first call."""
        path = self.root / "node.json"
        if not path.exists():
            self.remember(Identity(node_uid=uuid.uuid4().hex))
        try:
            return msgspec.json.decode(path.read_bytes(), type=Identity)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise StartError(f"{path} is damaged: remove it to join as a new node") from None

    def remember(self, identity: Identity) -> None:
        """Write who this folder is, whole or not at all."""
        write_private(self.root / "node.json", msgspec.json.encode(identity))


def boot_id() -> str:
    """Return what names the machine's present boot; empty where the kernel does not tell."""
    try:
        return _BOOT_ID.read_text("ascii").strip()
    except OSError:
        return ""
