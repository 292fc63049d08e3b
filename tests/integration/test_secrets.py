from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from hakuriver.model.auth import runner_token

if TYPE_CHECKING:
    from support.harness import Cluster


def test_secrets_are_in_no_log(cluster: Cluster) -> None:
    value = secrets.token_hex(16)
    wrong = secrets.token_hex(16)
    cluster.run("true", env_vars={"SECRET": value})
    cluster.run("/nosuch/program", env_vars={"SECRET": value})
    cluster.run("true", env_vars={"SECRET": value}, working_directory="/nosuch")
    body = {"command": "true", "env_vars": {"1BAD": value}}
    assert cluster.http("POST", "/api/submit", body=body).status == 422
    assert cluster.http("GET", "/api/nodes", token=wrong).status == 401
    kept = [value, wrong, cluster.token, cluster.second_token, cluster.runner_secret]
    kept += [runner_token(cluster.runner_secret, node) for node in cluster.nodes]
    for daemon in (cluster.host, *cluster.runners.values()):
        text = daemon.text()
        for secret in kept:
            assert secret not in text, daemon.argv


def test_secrets_are_in_no_error(cluster: Cluster) -> None:
    value = secrets.token_hex(16)
    body: dict[str, object] = {"command": "true", "env_vars": {"A": f"{value}\0"}}
    assert value not in cluster.http("POST", "/api/submit", body=body).body.decode()
    wrong = secrets.token_hex(16)
    assert wrong not in cluster.http("GET", "/api/nodes", token=wrong).body.decode()
    done = cluster.run_client("--list-nodes", env={"HAKURIVER_SECURITY_RUNNER_SECRET": wrong})
    assert wrong not in done.stdout + done.stderr
