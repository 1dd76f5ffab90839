"""Reads the requests of a batch, one JSON line each, and checks all of them before any is answered."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from starlette.exceptions import HTTPException

from rung.server.bodies import parse
from rung.store.serving import BatchRecord

MAX_LINES = 50_000  # requests of a batch
MAX_BYTES = 200_000_000  # of a batch's file
MAX_ID = 512  # characters of a custom_id
MAX_ERRORS = 100  # that are told of one file
FIELDS = ("custom_id", "method", "url", "body")


class BadLine(Exception):
    """A line that is no request for a batch, with OpenAI's words for why."""

    def __init__(self, code: str, message: str, param: str | None = None):
        super().__init__(message)
        self.code, self.param = code, param


@dataclass(frozen=True)
class Line:
    """One request of a batch."""

    custom_id: str
    body: dict[str, Any]


@dataclass
class Checked:
    """What a file holds.

    Attributes:
        total: its requests. models: that they ask, two of them at most.
        errors: as the batch tells them; empty where every line is good.
    """

    total: int = 0
    models: set[str] = field(default_factory=set)
    errors: list[dict[str, Any]] = field(default_factory=list)

    def refuse(self, fault: BadLine, number: int | None = None) -> None:
        """Note what is wrong, with the number of its line, from 1."""
        told = {"code": fault.code, "message": str(fault), "param": fault.param, "line": number}
        self.errors.append(told)

    @property
    def model(self) -> str | None:
        """Who is asked, where all lines ask the same."""
        return next(iter(self.models)) if len(self.models) == 1 else None


def check(path: Path, batch: BatchRecord, max_body: int) -> Checked:
    """Read a file to its end, or to `MAX_ERRORS` bad lines.

    Args:
        max_body: bytes that a line may have.

    Raises:
        OSError: where it cannot be read.
    """
    found, known = Checked(), set[str]()
    with path.open("rb") as content:
        for number, raw in _numbered(content, max_body):
            if len(found.errors) == MAX_ERRORS:
                break
            try:
                line = request_of(raw, batch.endpoint, max_body)
                if line.custom_id in known:
                    told = f"the custom_id '{line.custom_id[:80]}' stands in an earlier line too"
                    raise BadLine("duplicate_custom_id", told, "custom_id")
            except BadLine as fault:
                found.refuse(fault, number)
                continue
            known.add(line.custom_id)
            if len(found.models) < 2 and isinstance(line.body.get("model"), str):
                found.models.add(line.body["model"])
            found.total += 1
            if found.total > MAX_LINES:
                told = f"a batch has at most {MAX_LINES} requests: make several of it"
                found.refuse(BadLine("too_many_requests", told), number)
                break
    if not found.total and not found.errors:
        found.refuse(BadLine("empty_file", "the file holds no request"))
    return found


def read(path: Path, batch: BatchRecord, max_body: int) -> Iterator[Line]:
    """The requests of a file that was checked.

    Raises:
        OSError: where it cannot be read. BadLine: where it was changed since.
    """
    with path.open("rb") as content:
        for _, raw in _numbered(content, max_body):
            yield request_of(raw, batch.endpoint, max_body)


def _numbered(content: BinaryIO, most: int) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank, with their numbers; of one longer than `most` the beginning alone."""
    number = 0
    while raw := content.readline(most + 2):
        number += 1
        rest = raw
        while not rest.endswith(b"\n") and (rest := content.readline(most + 2)):
            pass
        if raw.strip():
            yield number, raw.rstrip(b"\r\n")


def request_of(raw: bytes, endpoint: str, max_body: int) -> Line:
    """Read one line.

    Raises:
        BadLine: for what is no request to that endpoint.
    """
    if len(raw) > max_body:
        raise BadLine("request_too_large", f"the line has more than {max_body} bytes")
    try:
        said = parse(raw)
    except HTTPException as fault:
        raise BadLine("invalid_json_line", str(fault.detail)) from None
    except ValueError as fault:
        raise BadLine("invalid_json_line", f"the line is no JSON: {str(fault)[:200]}") from None
    if not isinstance(said, dict):
        raise BadLine("invalid_json_line", "the line is no JSON object")
    for name in FIELDS:
        if said.get(name) is None:
            raise BadLine("missing_required_parameter", f"'{name}' is missing", name)
    for name in said:
        if name not in FIELDS:
            told = f"unknown field '{name[:80]}': a line has {', '.join(FIELDS)}"
            raise BadLine("unknown_parameter", told, name[:80])
    id, body = said["custom_id"], said["body"]
    if not isinstance(id, str) or not 1 <= len(id) <= MAX_ID:
        raise BadLine("invalid_value", f"'custom_id' must have 1 to {MAX_ID} characters", "custom_id")
    if said["method"] != "POST":
        raise BadLine("invalid_method", "'method' must be POST", "method")
    if said["url"] != endpoint:
        raise BadLine("invalid_url", f"'url' must be {endpoint}, the batch's endpoint", "url")
    if not isinstance(body, dict):
        raise BadLine("invalid_value", "'body' must be a JSON object", "body")
    if body.get("stream"):
        raise BadLine("invalid_value", "'stream' is not for batches: leave it out", "body.stream")
    return Line(id, body)
