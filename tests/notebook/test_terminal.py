"""The magics in IPython at a terminal, where there is no kernel."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from support.processes import clean_environment

if TYPE_CHECKING:
    from pathlib import Path

    from support.harness import Cluster


def ipython(cluster: Cluster, folder: Path, *lines: str) -> subprocess.CompletedProcess[str]:
    """Type `lines` at an IPython that is connected to `cluster`."""
    token = folder / "token"
    token.write_text(cluster.token)
    url = f"http://127.0.0.1:{cluster.port}"
    connect = ("%load_ext hakuriver", f"%hakuriver connect {url} --token-file {token}")
    return subprocess.run(
        [sys.executable, "-m", "IPython", "--simple-prompt", "--no-banner", "--colors=NoColor"],
        input="\n".join([*connect, *lines, ""]),
        env=clean_environment(folder / "home", IPYTHONDIR=str(folder / "ipython")),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )


def detached(body: str) -> str:
    return f"f = get_ipython().run_cell_magic('hakuriver', '--detach --shell', {body!r})"


def test_output_of_a_detached_cell_comes_as_it_comes(cluster: Cluster, tmp_path: Path) -> None:
    done = ipython(
        cluster,
        tmp_path,
        detached("echo 'from behind'; exit 3"),
        "print('between'); f.exception(30); import threading",
        "[t.join(30) for t in threading.enumerate() if t.name == 'hakuriver-detached'];",
        "%hakuriver wait",
    )
    assert done.returncode == 0, done
    for words in ("· submitted", "from behind\n", "between\n", "failed after", "exit code 3"):
        assert words in done.stdout
    assert "TaskFailed: task" in done.stdout
    assert "\x1b[31m" not in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_the_end_is_quiet_while_a_detached_cell_goes_on(cluster: Cluster, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    done = ipython(
        cluster,
        tmp_path,
        detached(f"echo begun; until [ -e {gate} ]; do sleep 0.02; done"),
        "while 'begun' not in f.text(): pass",
        "print('the end')",
    )
    gate.touch()
    assert done.returncode == 0, done
    assert "the end" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert "Exception" not in done.stdout + done.stderr
    assert "no longer" not in done.stdout
