from __future__ import annotations

from pathlib import Path

import pytest

from hakuriver.errors import StoreError
from hakuriver.host.store import files

MOUNTS = """\
22 1 0:20 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
23 22 0:21 / /home rw - nfs4 server:/home rw,vers=4.2
24 23 0:22 / /home/local rw - xfs /dev/sdb rw
25 22 0:23 / /mnt/with\\040space rw - fuse.sshfs me@there:/ rw
26 22 0:24 / /scratch rw - lustre mgs:/fs rw
27 26 0:25 / /scratch rw master:3 - tmpfs tmpfs rw
28 22 0:26 / /mnt/tab\\011and\\134 rw - cifs //server/share rw
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/", "ext4"),
        ("/var/lib", "ext4"),
        ("/home", "nfs4"),
        ("/home/me/state", "nfs4"),
        ("/home/local/me", "xfs"),
        ("/homestead", "ext4"),
        ("/mnt/with space/x", "fuse.sshfs"),
        # Of two at one place the later one lies on top.
        ("/scratch/x", "tmpfs"),
        ("/mnt/tab\tand\\/x", "cifs"),
    ],
)
def test_the_longest_mount_point_tells(folder: str, kind: str) -> None:
    assert files._file_system(Path(folder), MOUNTS) == kind


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs", "lustre"])
def test_a_network_file_system_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(files, "_file_system", lambda *_: kind)
    path = tmp_path / "host" / "host.db"
    with pytest.raises(StoreError) as caught:
        files.prepare(path)
    assert str(path) in str(caught.value)
    assert kind in str(caught.value)
    assert "database.db_file" in str(caught.value)
    assert not path.exists()
