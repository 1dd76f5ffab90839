"""The description of the API, with errors as they are: OpenAI's shape, for any status."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

ERROR = {
    "type": "object",
    "required": ["error"],
    "additionalProperties": False,
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "additionalProperties": False,
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
ANTHROPIC_ERROR = {
    "type": "object",
    "required": ["type", "error", "request_id"],
    "additionalProperties": False,
    "properties": {
        "type": {"const": "error"},
        "error": {
            "type": "object",
            "required": ["type", "message"],
            "additionalProperties": False,
            "properties": {"type": {"type": "string"}, "message": {"type": "string"}},
        },
        "request_id": {"type": ["string", "null"]},
    },
}
# What the id in an answer to the first address is good for.
JOB = "/v1/fine_tuning/jobs"
CLIMB = "/v1/rung/climbs"
SYNTHESIS = "/v1/rung/syntheses"
RESPONSES = "/v1/responses"
MESSAGES = "/v1/messages"
BATCHES = "/v1/batches"
FOLLOWING: dict[str, tuple[str, tuple[str, ...]]] = {
    "/v1/files": ("file_id", ("/v1/files/{file_id}", "/v1/files/{file_id}/content")),
    "/v1/uploads": ("upload_id", tuple(f"/v1/uploads/{{upload_id}}/{what}" for what in (
        "parts", "complete", "cancel"))),
    BATCHES: ("batch_id", (f"{BATCHES}/{{batch_id}}", f"{BATCHES}/{{batch_id}}/cancel")),
    RESPONSES: ("response_id", (f"{RESPONSES}/{{response_id}}",
                                f"{RESPONSES}/{{response_id}}/input_items")),
    JOB: ("job_id", (f"{JOB}/{{job_id}}", *(f"{JOB}/{{job_id}}/{what}" for what in (
        "cancel", "pause", "resume", "events", "checkpoints")))),
    CLIMB: ("climb_id", (f"{CLIMB}/{{climb_id}}", *(f"{CLIMB}/{{climb_id}}/{what}" for what in (
        "cancel", "pause", "resume", "events")))),
    SYNTHESIS: ("synthesis_id", (f"{SYNTHESIS}/{{synthesis_id}}", *(
        f"{SYNTHESIS}/{{synthesis_id}}/{what}" for what in ("cancel", "pause", "resume", "events")))),
}  # fmt: skip
# What a file is good for -> the parameter that names it.
ORDERED = {JOB: "training_file", CLIMB: "training_file", BATCHES: "input_file_id"}
STREAMS = ("/v1/chat/completions", "/v1/completions", RESPONSES, MESSAGES)


def describe(app: FastAPI) -> None:
    """Make `app.openapi()` say what the routes really answer."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            found = get_openapi(title=app.title, version=app.version, routes=app.routes)
            app.openapi_schema = _amended(found)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _amended(found: dict[str, Any]) -> dict[str, Any]:
    schemas = found.setdefault("components", {}).setdefault("schemas", {})
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    schemas["Error"] = ERROR
    reference = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    schemas["AnthropicError"] = ANTHROPIC_ERROR
    theirs = {"application/json": {"schema": {"$ref": "#/components/schemas/AnthropicError"}}}
    for path, operations in found["paths"].items():
        for operation in operations.values():
            responses = operation["responses"]
            responses.pop("422", None)
            shape = theirs if path.startswith(MESSAGES) else reference
            responses["default"] = {"description": "What went wrong.", "content": shape}
            if path in STREAMS:
                whole = responses["200"]["content"]
                whole["text/event-stream"] = {"schema": {"type": "string"}}
            elif path.endswith("/content"):
                octets = {"schema": {"type": "string", "format": "binary"}}
                responses["200"]["content"] = {"application/octet-stream": octets}
                part = {"description": "A part.", "content": responses["200"]["content"]}
                responses["206"] = part
            elif path == "/metrics":
                responses["200"]["content"] = {"text/plain": {"schema": {"type": "string"}}}
    _link(found["paths"])
    return found


def _link(paths: dict[str, Any]) -> None:
    """Say which address takes the id that another gave, for those who follow the description."""
    for first, (parameter, others) in FOLLOWING.items():
        taken = {parameter: "$response.body#/id"}
        links = {
            operation["operationId"]: {"operationId": operation["operationId"], "parameters": taken}
            for path in others
            for operation in paths[path].values()
        }
        for ordered, parameter in ORDERED.items() if first == "/v1/files" else ():
            order = paths[ordered]["post"]["operationId"]
            body = {parameter: "$response.body#/id"}
            links[order] = {"operationId": order, "requestBody": body}
        paths[first]["post"]["responses"]["200"]["links"] = links
