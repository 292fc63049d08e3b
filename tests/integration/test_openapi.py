"""Whatever fits the API's document, and whatever does not, is answered as the document says.

Schemathesis makes the requests. The node is a runner that the test plays, so that nothing of what
is submitted is ever started. More is tried with ``HAKURIVER_API_EXAMPLES=1000``.
"""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING, Any, cast

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.generation.modes import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from hakuriver.host.api.openapi import operations
from hakuriver.model.auth import runner_token
from hakuriver.model.submission import MAX_REQUEST
from support.harness import Cluster
from support.played_runner import KEEP, played_runner

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from schemathesis import Case

NODE = "n"
EXAMPLES = int(os.environ.get("HAKURIVER_API_EXAMPLES", "10"))
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
#: These end when the client leaves; others look at them. The link is no request and reply.
ENDLESS = {"/events", "/stream", "/runner"}
LABELS = [f"{one.method} {one.path}" for one in operations() if one.path not in ENDLESS]
#: What is no id or name is not found; the edges below and `test_bad_input` try that.
PAIRS = [(label, GenerationMode.POSITIVE) for label in LABELS] + [
    (f"{one.method} {one.path}", GenerationMode.NEGATIVE)
    for one in operations()
    if one.path not in ENDLESS and (one.query or one.body)
]
#: So many statuses came of each operation, for whoever asks with -s.
SEEN: Counter[str] = Counter()


class Api:
    """A host that is asked, its document, and some ids that are known there."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.session = requests.Session()
        schema: Any = schemathesis.openapi.from_dict(cluster.get("/api/openapi.json"))
        # That nobody can have a task now is an answer, and no fault.
        statuses = ["2xx", "3xx", "4xx", "503"]
        schema.config.checks.not_a_server_error.expected_statuses = statuses
        # Wrong tokens would be refused before anything else is looked at.
        schema.config.generation.with_security_parameters = False
        found = [result.ok() for result in schema.get_all_operations()]
        self.operations = {one.label: one for one in found}
        wishes = [("true", 1), ("true", 1), (KEEP, 1), (KEEP, 1), (KEEP, 8)]
        replies = [
            cluster.post(
                "/api/submit", {"command": command, "required_cores": cores, "targets": [NODE]}
            )
            for command, cores in wishes
        ]
        self.tasks = [reply["task_ids"][0] for reply in replies]
        self.batches = [reply["batch_id"] for reply in replies]

    def ask(self, case: Case[Any]) -> int:
        """Send one request and check its answer; return the status."""
        token = self.cluster.token
        if case.path.startswith("/runner"):
            token = runner_token(self.cluster.runner_secret, NODE)
        headers = {"Authorization": f"Bearer {token}"}
        far_too_large = isinstance(case.body, dict | list) and len(str(case.body)) > MAX_REQUEST
        try:
            response = case.call(
                base_url=f"http://127.0.0.1:{self.cluster.port}/api",
                session=self.session,
                headers=headers,
            )
        except requests.ConnectionError:
            assert far_too_large, case
            return 0
        if case.method == case.operation.method.upper():
            case.validate_response(response, checks=cast("Any", CHECKS))
        else:
            # The document speaks of the methods that there are.
            assert response.status_code == 405, case
            assert response.json()["detail"]
            assert case.operation.method.upper() in response.headers["allow"][0]
        assert "Traceback" not in response.text
        SEEN[f"{case.method} {case.path} {response.status_code}"] += 1
        return response.status_code


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    cluster = Cluster(tmp_path_factory.mktemp("openapi"))
    try:
        cluster.start_host()
        with played_runner(cluster, NODE):
            api = Api(cluster)
            yield api
            api.session.close()
            for task_id in api.tasks:
                cluster.http("POST", f"/api/kill/{task_id}")
    finally:
        cluster.host.stop()
        cluster.stop()
    cluster.check_logs()
    print(*(f"\n{count:6} {what}" for what, count in sorted(SEEN.items())))  # noqa: T201


@pytest.mark.timeout(180 + 10 * EXAMPLES)
@pytest.mark.parametrize(("label", "mode"), PAIRS)
def test_every_request_is_answered_as_the_document_says(
    api: Api, label: str, mode: GenerationMode
) -> None:
    operation = api.operations[label]

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=EXAMPLES <= 10,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode), draw=st.data())
    def run(case: Case[Any], draw: st.DataObject) -> None:
        make_known(api, case, draw.draw)
        api.ask(case)

    run()
    api.cluster.post(f"/api/nodes/{NODE}/resume", status=200)
    assert api.cluster.http("GET", "/healthz", token=None).status == 200


@pytest.mark.parametrize("label", LABELS)
def test_the_edges_of_every_limit_are_answered_as_the_document_says(api: Api, label: str) -> None:
    operation = api.operations[label]
    schema = operation.schema
    asked = 0
    for case in schema.iter_coverage_cases(
        operation,
        generation_modes=list(GenerationMode),
        generation_config=schema.config.generation,
    ):
        make_known(api, case, lambda _: False)
        api.ask(case)
        asked += 1
    assert asked > 5


def make_known(api: Api, case: Case[Any], draw: Callable[[Any], Any]) -> None:
    """Let some requests be about what is there: by chance alone none would be."""
    places = case.path_parameters
    for name, known in (("task_id", api.tasks), ("batch_id", api.batches), ("name", [NODE])):
        if name in places and draw(st.booleans()):
            places[name] = draw(st.sampled_from(known))
    query = case.query
    if "follow" in query:
        query["follow"] = "0"
    if case.path.startswith("/runner"):
        query["name"] = (
            NODE
            if case.method != case.operation.method.upper() or draw(st.booleans())
            else query.get("name", NODE)
        )
    if "hostname" in query and draw(st.booleans()):
        query["hostname"] = NODE
    if case.path == "/submit" and isinstance(case.body, dict) and draw(st.booleans()):
        make_fitting(case.body)
    if case.path == "/submit-many" and isinstance(case.body, dict):
        several = cast("Any", case.body.get("submissions"))
        for one in several if isinstance(several, list) else ():
            if isinstance(one, dict) and draw(st.booleans()):
                make_fitting(one)


def make_fitting(body: dict[str, Any]) -> None:
    """Turn a body into one that the node can have, if nothing else is wrong with it."""
    for name in ("script", "script_base64", "interpreter", "working_directory"):
        body.pop(name, None)
    body["command"] = "true"
    body["targets"] = [NODE]
    if isinstance(body.get("required_cores"), int):
        body["required_cores"] %= 3
    body.pop("required_memory_bytes", None)
