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


HOW = {
    "deadline": None, "database": None, "derandomize": True,
    "suppress_health_check": list(hypothesis.HealthCheck),
}  # fmt: skip


def judge(text):
    return {"violence": float("kill" in text)}


@pytest.fixture(scope="module")
def schema(tmp_path_factory):
    base = base_folder(tmp_path_factory.mktemp("openapi") / "tiny")
    served = open_shop(base, jobs=1, moderation=judge)
    # Jobs are ordered, paused and cancelled; none is worked at.
    served.app.state.service.background[0].stop()
    config = SchemathesisConfig(
        projects=ProjectsConfig(default=ProjectConfig(generation=GenerationConfig(max_examples=12)))
    )
    yield schemathesis.openapi.from_url(f"{served.url}/openapi.json", config=config)
    served.stop()


def test_no_answer_is_outside_the_description(schema):
    checks = CHECKS.get_by_names(HELD)
    seen = []
    for result in schema.get_all_operations():
        operation = result.ok()

        @hypothesis.settings(max_examples=12, **HOW)
        @hypothesis.given(case=operation.as_strategy())
        def holds(case):
            response = case.call()
            case.validate_response(response, checks=checks)

        holds()
        seen.append((operation.method, operation.path))
    assert len(seen) >= 23


@pytest.mark.parametrize("paths", ["^/v1/(files|uploads)", "^/"])
def test_no_answer_of_several_calls_in_a_row_is_outside_it(schema, paths):
    """What was made is looked at, changed and deleted, as the links say."""
    checks, answered = CHECKS.get_by_names(HELD), set()

    class Chain(schema.include(path_regex=paths).as_state_machine()):
        def validate_response(self, response, case, **settings):
            answered.add((case.operation.label, response.status_code))
            case.validate_response(response, checks=checks)

    Chain.run(settings=hypothesis.settings(max_examples=8, stateful_step_count=8, **HOW))
    if paths != "^/":  # of so few addresses each is surely tried
        assert ("POST /v1/files", 200) in answered and ("POST /v1/uploads", 200) in answered
        assert any(status == 200 and "{file_id}" in label for label, status in answered)


def test_every_answer_is_described(schema):
    """A shape that allows anything would hold any answer."""
    for path, operations in schema.raw_schema["paths"].items():
        for method, operation in operations.items():
            for kind, content in operation["responses"]["200"]["content"].items():
                shape = content["schema"]
                if kind == "application/json":
                    name = shape.get("$ref", "").rpartition("/")[2]
                    known = schema.raw_schema["components"]["schemas"].get(name, {})
                    assert known.get("properties"), (method, path, shape)
