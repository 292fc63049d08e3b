from __future__ import annotations

import socket
import ssl
import time
import warnings
from typing import TYPE_CHECKING

import pytest

from hakuriver import Client
from hakuriver.config import load_config
from hakuriver.errors import HostUnreachable, TaskKilled
from hakuriver.host.listening import PATIENCE
from hakuriver.model.auth import runner_token
from support.certificates import Files, make_files
from support.harness import Cluster, check_one_line, started, write_toml
from support.processes import Daemon, clean_environment, run_hakuriver, wait_until
from support.restarts import tick

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return make_files(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def _secure(files: Files, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    root = tmp_path_factory.mktemp("secure")
    with started(Cluster(root, nodes={"node1": "0"}, settings=files.settings)) as cluster:
        yield cluster


@pytest.fixture
def secure(_secure: Cluster) -> Iterator[Cluster]:
    """A host and a node that speak TLS, shared by the tests of this module."""
    yield _secure
    _secure.after_test()


@pytest.fixture
def client(secure: Cluster) -> Iterator[Client]:
    with Client(config=load_config(str(secure.config), {})) as client:
        yield client


def listing(
    cluster: Cluster, url: str, *, ca: Path | str | None = None, token: str = ""
) -> subprocess.CompletedProcess[str]:
    """Ask for the nodes with nothing but variables, as on a machine without a file."""
    env = clean_environment(cluster.root / "bare")
    env |= {"HAKURIVER_URL": url, "HAKURIVER_TOKEN": token or cluster.token}
    if ca is not None:
        env["HAKURIVER_NETWORK_TLS_CA"] = str(ca)
    return run_hakuriver("client", "--list-nodes", env=env, cwd=cluster.root)


def test_tasks_run_are_followed_and_killed(secure: Cluster, client: Client) -> None:
    assert client.address == f"https://127.0.0.1:{secure.port}"
    ticking = tick(secure)
    followed = client.task(ticking.task_id)
    lines = followed.logs(follow=True)
    first = [next(iter(lines)) for _ in range(5)]
    assert len(first) == 5
    followed.kill()
    with pytest.raises(TaskKilled):
        followed.result(timeout=60)
    done = secure.run_client("--follow", "--target", "node1", "--", "echo", "by TLS", check=0)
    assert "by TLS" in done.stdout


def test_a_followed_log_outlives_the_host(secure: Cluster) -> None:
    ticking = tick(secure, code=3)
    process = secure.start_client("--logs", ticking.task_id, "--follow")
    wait_until(lambda: ticking.log.stat().st_size > 100)
    secure.kill("host")
    ticking.go_on(10)
    secure.restart("host")
    secure.wait_online("node1")
    ticking.end()
    out, _ = process.communicate(timeout=60)
    ticking.check_whole(out.decode().splitlines())
    assert secure.wait(ticking.task_id)["exit_code"] == 3


def test_a_script_too_large_for_a_frame_is_fetched_by_tls_too(secure: Cluster) -> None:
    padding = "#" * (3 << 20)
    task = secure.wait(secure.script(f"{padding}\nprint('large')"))
    assert secure.text(task["task_id"]) == "large\n"


def test_variables_alone_are_enough(secure: Cluster, files: Files) -> None:
    for name in ("127.0.0.1", "localhost"):
        done = listing(secure, f"https://{name}:{secure.port}", ca=files.ca)
        assert done.returncode == 0, done.stderr
        assert "node1" in done.stdout


def test_a_file_with_nothing_but_the_authority_serves_clients(
    secure: Cluster, files: Files
) -> None:
    config = write_toml(
        secure.root / "thin.toml",
        {
            "network": {"host_port": secure.port, "tls_ca": str(files.ca)},
            "security.tokens": {"default": secure.token},
        },
    )
    args = ("client", "-c", str(config), "--list-nodes")
    done = run_hakuriver(*args, env=secure.env, cwd=secure.root, check=0)
    assert "node1" in done.stdout


def test_doctor_asks_by_tls(secure: Cluster) -> None:
    args = ("doctor", "-c", str(secure.config))
    done = run_hakuriver(*args, env=secure.env, cwd=secure.root)
    assert f"https://127.0.0.1:{secure.port} answers" in done.stdout


def test_an_unknown_authority_is_told(secure: Cluster, tmp_path: Path) -> None:
    url = f"https://127.0.0.1:{secure.port}"
    for ca in (make_files(tmp_path).ca, "system", None):
        done = listing(secure, url, ca=ca)
        assert done.returncode == 1
        check_one_line(done.stderr, url, "network.tls_ca")
    with (
        Client(url, token=secure.token) as stranger,
        pytest.raises(HostUnreachable, match=r"network\.tls_ca"),
    ):
        stranger.nodes()


@pytest.mark.parametrize(
    ("text", "word"), [(None, "cannot be read"), ("no certificate", "holds no certificate")]
)
def test_an_authority_that_cannot_be_used_is_told(
    secure: Cluster, tmp_path: Path, text: str | None, word: str
) -> None:
    path = tmp_path / "ca.pem"
    if text is not None:
        path.write_text(text, "utf-8")
    done = listing(secure, f"https://127.0.0.1:{secure.port}", ca=path)
    assert done.returncode == 2
    check_one_line(done.stderr, "network.tls_ca", str(path), word)


def test_plain_http_at_a_tls_port_is_told_what_to_do(secure: Cluster, files: Files) -> None:
    began = time.monotonic()
    done = listing(secure, f"http://127.0.0.1:{secure.port}", ca=files.ca)
    assert done.returncode not in {0, -9}
    check_one_line(done.stderr, "https://")
    with socket.create_connection(("127.0.0.1", secure.port), timeout=30) as peer:
        peer.sendall(b"POST /api/submit HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{}")
        answer = peer.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"https://" in answer
    assert time.monotonic() - began < PATIENCE / 2


def test_tls_at_a_plain_port_is_told_what_to_do(cluster: Cluster, files: Files) -> None:
    began = time.monotonic()
    done = listing(cluster, f"https://127.0.0.1:{cluster.port}", ca=files.ca)
    assert done.returncode not in {0, -9}
    check_one_line(done.stderr, "speaks plain HTTP", "http://")
    assert time.monotonic() - began < PATIENCE / 2


def test_nothing_older_than_tls_1_2_is_spoken(secure: Cluster) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    # The library warns of what this test is about.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection(("127.0.0.1", secure.port), timeout=30) as peer,
        pytest.raises(ssl.SSLError),
    ):
        context.wrap_socket(peer)


def test_a_peer_that_says_nothing_or_nonsense_holds_up_nobody(secure: Cluster) -> None:
    peers = [socket.create_connection(("127.0.0.1", secure.port)) for _ in range(20)]
    for peer in peers[:10]:
        peer.sendall(b"\x16\x03\x01")
    assert secure.run("true")["status"] == "completed"
    for peer in peers:
        peer.close()


def test_small_messages_do_not_wait(client: Client) -> None:
    client.run(["true"], target="node1").result(timeout=60)

    def fourth() -> float:
        times: list[float] = []
        for _ in range(15):
            began = time.perf_counter()
            client.nodes()
            times.append(time.perf_counter() - began)
        return sorted(times)[3]

    # Without TCP_NODELAY each answer would wait 40 ms for an acknowledgement. One calm round proves
    # that it does not; a busy machine has others.
    assert any(fourth() < 0.03 for _ in range(20))


def test_secrets_and_keys_are_in_no_log(secure: Cluster, files: Files) -> None:
    for log in (secure.host.text(), secure.runners["node1"].text()):
        for secret in (secure.token, secure.runner_secret, *files.key.read_text().split()[4:6]):
            assert secret not in log


# -- certificates that do not fit -----------------------------------------------------------


@pytest.fixture
def stray(secure: Cluster, tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    """Start a runner of the shared host that has other settings of its network."""
    made: list[Daemon] = []

    def start(**network: object) -> Daemon:
        sections: dict[str, dict[str, object]] = {
            "network": {**secure.settings["network"], "host_port": secure.port, **network},
            "paths": {"state_dir": str(tmp_path / "state")},
            "runner": {"name": "stray", "launcher": "process"},
            "security": {"runner_token": runner_token(secure.runner_secret, "stray")},
        }
        config = write_toml(tmp_path / "stray.toml", sections)
        daemon = Daemon(
            argv=["runner", "-c", str(config)],
            env=clean_environment(tmp_path / "home"),
            cwd=tmp_path / "cwd",
            log=tmp_path / "stray.log",
        )
        made.append(daemon)
        daemon.start()
        return daemon

    yield start
    for daemon in made:
        daemon.stop()
    if secure.node("stray"):
        wait_until(lambda: secure.node_status("stray") == "offline")
        secure.http("DELETE", "/api/nodes/stray")


def test_a_runner_that_trusts_another_authority_tries_on_and_says_why(
    secure: Cluster, stray: Callable[..., Daemon], tmp_path: Path
) -> None:
    runner = stray(tls_ca=str(make_files(tmp_path).ca))
    wait_until(lambda: "network.tls_ca" in runner.text(), what=runner.text())
    assert "trying on" in runner.text()
    assert "Traceback" not in runner.text()
    assert "SSL Error" not in runner.text() + secure.host.text()
    runner.check_alive()
    assert secure.node("stray") is None


def test_a_runner_that_finds_another_name_says_so(
    secure: Cluster, files: Files, stray: Callable[..., Daemon]
) -> None:
    files.issue(["127.0.0.1"])
    try:
        secure.kill("host")
        secure.restart("host")
        runner = stray(host_reachable_address="localhost")
        wait_until(lambda: "--host-name" in runner.text(), what=runner.text())
        assert "localhost" in runner.text()
        done = listing(secure, f"https://localhost:{secure.port}", ca=files.ca)
        assert done.returncode == 1
        check_one_line(done.stderr, "localhost", "--host-name")
    finally:
        files.issue()
        secure.kill("host")
        secure.restart("host")


def test_a_runner_that_speaks_plain_http_is_told(
    secure: Cluster, stray: Callable[..., Daemon]
) -> None:
    runner = stray(tls_cert="", tls_key="", tls_ca="")
    wait_until(lambda: "https://" in runner.text(), what=runner.text())
    assert secure.node("stray") is None


def test_a_runner_that_speaks_tls_to_a_plain_host_says_so(
    cluster: Cluster, stray: Callable[..., Daemon]
) -> None:
    runner = stray(host_port=cluster.port)
    wait_until(lambda: "speaks plain HTTP" in runner.text(), what=runner.text())


def _serve_past_the_end(cluster: Cluster, made: Files) -> None:
    """Leave a host that serves with a certificate which has ended since."""
    for seconds in (4, 16, 50):
        end = time.time() + seconds
        # A certificate holds from a day before it was made.
        made.issue(days=2, ago=1 - seconds / 86400)
        cluster.host.start()
        process = cluster.host.process
        assert process is not None
        wait_until(lambda: _listens(cluster.port) or process.poll() is not None)  # noqa: B023
        if process.poll() is None:
            wait_until(lambda: time.time() > end, timeout=60, what="the end")  # noqa: B023
            return
        # On a busy machine the end came before the host was there.
        cluster.host.process = None
    raise AssertionError(cluster.host.text())


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=30).close()
    except ConnectionRefusedError:
        return False
    return True


def test_an_expired_certificate_is_told_and_a_new_one_mends_it(
    tmp_path: Path, make_cluster: Callable[..., Cluster]
) -> None:
    made = make_files(tmp_path / "tls")
    cluster = make_cluster(nodes={"node1": "0"}, settings=made.settings)
    _serve_past_the_end(cluster, made)
    cluster.start_runner("node1")
    runner = cluster.runners["node1"]
    wait_until(lambda: "has expired" in runner.text(), what=runner.text())
    done = cluster.run_client("--list-nodes")
    assert done.returncode == 1
    check_one_line(done.stderr, "has expired", "hakuriver.init --tls")
    cluster.kill("host")
    refused = run_hakuriver(*cluster.host.argv, env=cluster.env, cwd=cluster.root)
    assert refused.returncode == 2
    check_one_line(refused.stderr, "network.tls_cert", str(made.cert), "has expired")
    made.issue()
    cluster.restart("host")
    cluster.wait_online("node1")
    assert cluster.run("true")["status"] == "completed"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"tls_key": ""}, ["network.tls_key"]),
        ({"tls_cert": ""}, ["network.tls_cert"]),
        ({"tls_cert": "/nowhere/c.pem"}, ["network.tls_cert", "/nowhere/c.pem"]),
        ({"tls_key": "/nowhere/k.pem"}, ["network.tls_key", "/nowhere/k.pem"]),
    ],
)
def test_a_host_that_could_not_serve_does_not_start(
    tmp_path: Path, changed: dict[str, object], words: list[str]
) -> None:
    network = {**make_files(tmp_path).settings["network"], "host_port": 0, **changed}
    sections: dict[str, dict[str, object]] = {
        "network": network,
        "paths": {"state_dir": str(tmp_path / "state")},
        "security": {"runner_secret": "s"},
        "security.tokens": {"default": "t"},
    }
    config = write_toml(tmp_path / "c.toml", sections)
    env = clean_environment(tmp_path / "home")
    done = run_hakuriver("host", "-c", str(config), env=env, cwd=tmp_path, check=2)
    check_one_line(done.stderr, *words)
    assert not (tmp_path / "state").exists()
