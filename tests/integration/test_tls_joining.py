from __future__ import annotations

import shlex
import socket
import ssl
import stat
import threading
import tomllib
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from hakuriver import tls
from support.certificates import Files, make_files
from support.harness import Cluster, check_one_line
from support.processes import Daemon, clean_environment, run_hakuriver

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return make_files(tmp_path / "tls")


@pytest.fixture
def head(make_cluster: Callable[..., Cluster], files: Files) -> Cluster:
    """A host that speaks TLS and has no node yet."""
    cluster = make_cluster(settings=files.settings)
    cluster.start_host()
    return cluster


def _line(cluster: Cluster, name: str = "n3") -> list[str]:
    args = ("token", "-c", str(cluster.config), "--node", name)
    done = run_hakuriver(*args, env=cluster.env, cwd=cluster.root, check=0)
    (line,) = done.stdout.splitlines()
    return shlex.split(line)


def _try(root: Path, words: list[str]) -> subprocess.CompletedProcess[str]:
    home = root / "fresh"
    done = run_hakuriver("runner", *words[1:], env=clean_environment(home), cwd=root)
    assert done.returncode not in {0, -9}
    assert not list(home.glob(".hakuriver/*"))
    assert words[words.index("--token") + 1] not in done.stdout + done.stderr
    return done


def _changed(words: list[str], option: str, value: str) -> list[str]:
    changed = list(words)
    changed[changed.index(option) + 1] = value
    return changed


@contextmanager
def impostor(files: Files) -> Iterator[tuple[int, list[bytes]]]:
    """A machine that answers by TLS and keeps what it is told, decrypted."""
    served = tls.serving(files.network)
    assert served is not None
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.1)
        over = threading.Event()

        def serve() -> None:
            while not over.is_set():
                try:
                    connection, _ = listening.accept()
                except TimeoutError:
                    continue
                with connection:
                    connection.settimeout(30)
                    try:
                        with served.context.wrap_socket(connection, server_side=True) as peer:
                            heard.append(peer.recv(1 << 16))
                    except OSError:
                        heard.append(b"")

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listening.getsockname()[1], heard
        finally:
            over.set()
            thread.join()


def test_the_pasted_line_makes_a_node_that_knows_the_host(head: Cluster, files: Files) -> None:
    words = _line(head)
    assert words[:3] == ["hakuriver.runner", "--join", f"https://127.0.0.1:{head.port}"]
    assert words[-2:] == ["--ca-fingerprint", tls.fingerprint(files.ca.read_text())]
    home = head.root / "n3" / "home"
    head.runners["n3"] = Daemon(
        argv=["runner", *words[1:]],
        env={**clean_environment(home), "PYTHONWARNINGS": "default"},
        cwd=head.root / "n3" / "cwd",
        log=head.root / "n3.log",
    )
    head.start_runner("n3")
    head.wait_online("n3")
    assert head.run("true", target="n3")["status"] == "completed"
    config = home / ".hakuriver" / "runner-n3.toml"
    ca = config.with_name("runner-n3-ca.pem")
    assert tomllib.loads(config.read_text())["network"]["tls_ca"] == str(ca)
    assert ca.read_text() == files.ca.read_text()
    assert stat.S_IMODE(ca.stat().st_mode) == 0o600
    # Pasted again, and started by its file, it is the same node.
    for argv in (words[1:], ["-c", str(config)]):
        head.kill("n3")
        head.runners["n3"].argv = ["runner", *argv]
        head.restart("n3")
    # A renewed certificate of the same authority changes nothing for it.
    files.issue()
    head.kill("host")
    head.restart("host")
    head.wait_online("n3")


def test_a_wrong_fingerprint_sends_no_token(tmp_path: Path, files: Files) -> None:
    other = make_files(tmp_path / "other")
    with impostor(files) as (port, heard):
        words = ["hakuriver.runner", "--join", f"https://127.0.0.1:{port}", "--name", "n3"]
        words += ["--token", "the-secret-token"]
        words += ["--ca-fingerprint", tls.fingerprint(other.ca.read_text())]
        done = _try(tmp_path, words)
        check_one_line(done.stderr, "fingerprint", "token was not sent")
    assert heard == [b""]


def test_the_right_certificate_without_its_key_gets_no_token(tmp_path: Path, files: Files) -> None:
    """Who presents the authority's certificate besides one of its own is not the host."""
    other = make_files(tmp_path / "other")
    own = tls.certificates(other.cert.read_text())[0]
    other.cert.write_text(own + files.ca.read_text(), "ascii")
    with impostor(other) as (port, heard):
        words = ["hakuriver.runner", "--join", f"https://127.0.0.1:{port}", "--name", "n3"]
        words += ["--token", "the-secret-token"]
        words += ["--ca-fingerprint", tls.fingerprint(files.ca.read_text())]
        done = _try(tmp_path, words)
        check_one_line(done.stderr, "cannot be used")
    assert b"the-secret-token" not in b"".join(heard)


def test_without_a_fingerprint_the_systems_authorities_hold(head: Cluster) -> None:
    done = _try(head.root, _line(head)[:-2])
    check_one_line(done.stderr, "--ca-fingerprint")


@pytest.mark.parametrize("value", ["sha256:12", "md5:" + "0" * 64, "words"])
def test_what_is_no_fingerprint_is_told(head: Cluster, value: str) -> None:
    done = _try(head.root, _changed(_line(head), "--ca-fingerprint", value))
    assert done.returncode == 2
    check_one_line(done.stderr, "--ca-fingerprint", "no fingerprint")


def test_plain_and_tls_mixed_up_are_told(head: Cluster, cluster: Cluster) -> None:
    words = _line(head)
    done = _try(head.root, _changed(words, "--join", f"http://127.0.0.1:{head.port}"))
    check_one_line(done.stderr, "--ca-fingerprint", "https://")
    plain = _changed(words[:-2], "--join", f"http://127.0.0.1:{head.port}")
    check_one_line(_try(head.root, plain).stderr, "https://")
    done = _try(head.root, _changed(words, "--join", f"https://127.0.0.1:{cluster.port}"))
    check_one_line(done.stderr, "speaks plain HTTP")


def test_a_host_that_does_not_present_its_authority_is_told_by_the_token_command(
    head: Cluster, files: Files
) -> None:
    files.issue(alone=True)
    args = ("token", "-c", str(head.config), "--node", "n3")
    done = run_hakuriver(*args, env=head.env, cwd=head.root, check=2)
    last = done.stderr.splitlines()[-1]
    check_one_line(last, "network.tls_cert", str(files.cert), f"append {files.ca}")


def test_what_init_makes_serves_a_whole_cluster(tmp_path: Path) -> None:
    env = clean_environment(tmp_path / "home")
    done = run_hakuriver("init", "--tls", env=env, cwd=tmp_path, check=0)
    config = tmp_path / "home" / ".hakuriver" / "config.toml"
    assert done.stdout.splitlines()[0] == str(config)
    cluster = Cluster(tmp_path / "c", nodes={"node1": "0"})
    network = tomllib.loads(config.read_text())["network"]
    keys = {key: network[key] for key in ("tls_cert", "tls_key", "tls_ca")}
    cluster = Cluster(tmp_path / "c", nodes={"node1": "0"}, settings={"network": keys})
    try:
        cluster.start()
        context = ssl.create_default_context(cafile=keys["tls_ca"])
        for name in ("localhost", socket.gethostname()):
            with (
                socket.create_connection(("127.0.0.1", cluster.port)) as connection,
                context.wrap_socket(connection, server_hostname=name) as wrapped,
            ):
                assert wrapped.version() == "TLSv1.3"
        assert "node1" in cluster.run_client("--list-nodes", check=0).stdout
    finally:
        cluster.stop()
    cluster.check_logs()
