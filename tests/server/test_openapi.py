"""The server against its own description: no 5xx, and every answer as it says."""

from __future__ import annotations

import hypothesis
import pytest
import schemathesis
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.config import GenerationConfig, ProjectConfig, ProjectsConfig, SchemathesisConfig

from tests.server.shop import base_folder, open_shop

load_all_checks()
HELD = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance",
    "response_schema_conformance", "response_headers_conformance",
)  # fmt: skip


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    made = open_shop(base_folder(tmp_path_factory.mktemp("openapi") / "tiny"), jobs=1)
    yield made
    made.stop()


def test_no_answer_is_outside_the_description(served):
    config = SchemathesisConfig(
        projects=ProjectsConfig(default=ProjectConfig(generation=GenerationConfig(max_examples=12)))
    )
    schema = schemathesis.openapi.from_url(f"{served.url}/openapi.json", config=config)
    checks = CHECKS.get_by_names(HELD)
    seen = []
    for result in schema.get_all_operations():
        operation = result.ok()
        if operation.path == "/v1/moderations":
            continue  # 501 by design where nothing judges

        @hypothesis.settings(max_examples=12, deadline=None, database=None, derandomize=True,
                             suppress_health_check=list(hypothesis.HealthCheck))  # fmt: skip
        @hypothesis.given(case=operation.as_strategy())
        def holds(case):
            response = case.call()
            case.validate_response(response, checks=checks)

        holds()
        seen.append((operation.method, operation.path))
    assert len(seen) >= 20
