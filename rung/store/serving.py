"""What the server keeps, as plain records: files, uploads, batches, tuning jobs, keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

from rung.errors import RungError
from rung.store.records import Record, moment

JobStatus = Literal[
    "validating_files", "queued", "running", "succeeded", "failed", "cancelled", "paused"
]
JobKind = Literal["tune", "climb", "synth"]
# Nothing follows these.
OVER: frozenset[str] = frozenset({"succeeded", "failed", "cancelled"})
# A worker may be at it.
ACTIVE: tuple[JobStatus, ...] = ("validating_files", "queued", "running")
BatchStatus = Literal[
    "validating", "in_progress", "finalizing", "completed", "failed", "expired", "cancelling",
    "cancelled",
]  # fmt: skip
# A server may be at work on a batch that has one of these; nothing follows the others.
WORKING: tuple[BatchStatus, ...] = ("validating", "in_progress", "finalizing", "cancelling")
UploadStatus = Literal["pending", "completed", "cancelled", "expired"]
SCOPES = ("ask", "train", "trace", "metrics", "admin")
# Reading what the server sees; `admin` opens these too.
READING = ("trace", "metrics")

T = TypeVar("T")


class FileNotFound(RungError):
    """No file of that id."""

    http_status = 404


class JobNotFound(RungError):
    """No job of that id and kind."""

    http_status = 404


class BatchNotFound(RungError):
    """No batch of that id."""

    http_status = 404


class UploadNotFound(RungError):
    """No upload of that id."""

    http_status = 404


class KeyNotFound(RungError):
    """No key of that id."""

    http_status = 404


class Conflict(RungError):
    """What is asked does not go with the state that the thing is in."""

    http_status = 409


@dataclass(frozen=True)
class Page(Generic[T]):
    """A part of a longer list."""

    items: Sequence[T]
    has_more: bool


def unix(text: str | None) -> int | None:
    """Seconds since 1970 of a stored moment."""
    return None if text is None else int(moment(text).timestamp())


@dataclass(frozen=True)
class FileRecord(Record):
    """A stored file.

    Attributes:
        name: what the client calls it. stored: its file below `files/`.
        owner: id of the key that made it; None for keys of the command line, and without keys.
    """

    id: str
    name: str
    purpose: str
    stored: str
    bytes: int
    created: str
    expires: str | None = None
    owner: str | None = None


@dataclass(frozen=True)
class JobRecord(Record):
    """A job: a tuning, a climb or a synthesis.

    Attributes:
        model: as the client named it. base: spec of the base. name: of the model in the store; of a
            synthesis, what its file of rows is called, without its ending.
        training_file, validation_file, result_file: ids of files. A synthesis reads the first two as
            seeds and as what must not leak, where it has them, and leaves its rows as the third.
        method: as the client said it. settings: the knobs that follow from it.
        hyperparameters: OpenAI's three, as far as they apply.
        notes: the client's metadata.
        made: the model is in the store, though perhaps not served yet.
        host, pid: of the worker; 0 while there is none. attempts: workers that died at it in a row.
        estimate: when it will probably be done.
        kind: what a worker does for it. climb: id of the climb that it has begun.
        owner: id of the key that ordered it; None for keys of the command line, and without keys.
    """

    id: str
    status: JobStatus
    model: str
    base: str
    name: str
    training_file: str
    suffix: str | None = None
    validation_file: str | None = None
    result_file: str | None = None
    method: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    fine_tuned_model: str | None = None
    trained_tokens: int | None = None
    error: dict[str, Any] = field(default_factory=dict)
    made: bool = False
    host: str = ""
    pid: int = 0
    attempts: int = 0
    created: str = ""
    finished: str | None = None
    estimate: str | None = None
    kind: JobKind = "tune"
    climb: str | None = None
    owner: str | None = None


@dataclass(frozen=True)
class EventRecord(Record):
    """Something that happened in a job. level: info, warn or error; kind: message or metrics."""

    id: int
    job: str
    level: str
    kind: str
    message: str
    data: dict[str, Any]
    created: str


@dataclass(frozen=True)
class CheckpointRecord(Record):
    """A state of a job's model that can be asked for under the name `model`."""

    id: str
    job: str
    step: int
    model: str
    folder: str
    metrics: dict[str, Any]
    created: str


@dataclass(frozen=True)
class KeyRecord(Record):
    """A key without its secret.

    Attributes:
        scopes: words of SCOPES, joined by commas.
        requests_per_minute, tokens_per_minute, quota: limits; None is none. quota: tokens in all.
        used: tokens asked and answered so far.
    """

    id: str
    name: str
    digest: str
    scopes: str = ",".join(SCOPES)
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    quota: int | None = None
    used: int = 0
    created: str = ""
    last_used: str | None = None
    revoked: str | None = None

    @property
    def owner(self) -> str | None:
        """The owner whose files and jobs the key sees; None for a key that sees all."""
        return None if self.may("admin") else self.id

    def may(self, scope: str) -> bool:
        """Whether the key opens what needs that scope."""
        held = self.scopes.split(",")
        return scope in held or (scope in READING and "admin" in held)


@dataclass(frozen=True, kw_only=True)
class UploadRecord(Record):
    """A file that arrives in parts.

    Attributes:
        name: what the client calls it. bytes: how many it is going to have. mime: as the client says.
        lasts: seconds that the file is kept, once it is made; None: until it is deleted.
        expires: when parts are no longer taken. file: id of what it became.
        owner: id of the key that made it; None for keys of the command line, and without keys.
    """

    id: str
    name: str
    purpose: str
    bytes: int
    mime: str
    expires: str
    status: UploadStatus = "pending"
    lasts: int | None = None
    created: str = ""
    file: str | None = None
    owner: str | None = None


@dataclass(frozen=True, kw_only=True)
class PartRecord(Record):
    """A part of an upload; its id also names its bytes below `uploads/`."""

    id: str
    upload: str
    bytes: int
    created: str


@dataclass(frozen=True, kw_only=True)
class BatchRecord(Record):
    """Requests of a file that are answered in the background.

    Attributes:
        endpoint: path of the route that answers each. base: spec of the base that they are meant for.
        input_file: id of the file; stored: where its bytes lie below `files/`.
        notes: the client's metadata. model: who is asked, where all ask the same.
        total, completed, failed: lines of the input, of the output and of the errors.
        errors: why it failed, as `{"data": [...]}`. usage: tokens, once it has ended.
        lasts: seconds that output and errors are kept; None: until they are deleted.
        moments: when it got each status. expires: when it has to be done.
        owner: id of the key that sees it; None as for files. key: id of the key that it is answered
            for; None for keys of the command line, and without keys.
        claim: the server at work on it. lease: until when that holds unless it is renewed.
    """

    id: str
    endpoint: str
    base: str
    input_file: str
    stored: str
    expires: str
    status: BatchStatus = "validating"
    notes: dict[str, Any] = field(default_factory=dict)
    model: str | None = None
    total: int = 0
    completed: int = 0
    failed: int = 0
    output_file: str | None = None
    error_file: str | None = None
    errors: dict[str, Any] = field(default_factory=dict)
    usage: dict[str, Any] = field(default_factory=dict)
    lasts: int | None = None
    moments: dict[str, Any] = field(default_factory=dict)
    created: str = ""
    owner: str | None = None
    key: str | None = None
    claim: str | None = None
    lease: str | None = None
