"""Fine-tuning jobs behind an OpenAI-compatible API: upload, start, follow.

What was started is written into the run's folder, so that a run that goes on follows the same job.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rung.errors import Interrupted, MethodMisfit

if TYPE_CHECKING:
    from rung.remote.openai import OpenAIApi
    from rung.types import Example

STATE = "remote.json"
MIN_ROWS = 10  # that OpenAI takes
FIRST_LOOK, LAST_LOOK = (
    0.5,
    15.0,
)  # seconds between looks at a job; the pause grows from one to the other
OVER = ("succeeded", "failed", "cancelled")


class TuneRequest(Protocol):
    """What a fine-tuning job needs of its caller: rows, a seed, a folder, callbacks."""

    @property
    def train(self) -> Sequence[Example]: ...

    @property
    def validation(self) -> Sequence[Example]: ...

    @property
    def seed(self) -> int: ...

    @property
    def folder(self) -> Path: ...

    @property
    def note(self) -> Callable[[str], None]: ...

    @property
    def stopping(self) -> Callable[[], bool]: ...


@dataclass(frozen=True)
class Tuned:
    """What a job made."""

    model: str
    job: str
    trained_tokens: int


def tune(
    api: OpenAIApi, study: TuneRequest, epochs: int | None = None, suffix: str | None = None
) -> Tuned:
    """Fine-tune `api.model` on the study's rows, or follow the job that this run has started.

    Raises:
        MethodMisfit: for fewer rows than a job takes. RemoteFault: when the server fails or refuses.
        Interrupted: when the user stops; the job goes on, and so does the run when it is resumed.
    """
    if len(study.train) < MIN_ROWS:
        raise MethodMisfit(
            f"a fine-tuning job takes {MIN_ROWS} training rows at least, here are "
            f"{len(study.train)}; a climb tries a few rows first: name a model that is tuned already"
        )
    parts = {"training_file": rows(study.train), "validation_file": rows(study.validation)}
    kept = _Kept(study.folder / STATE, api, parts)
    job = kept.job()
    if job is None:
        with api.faults():
            job = _start(api, study, parts, epochs, suffix)
        kept.write(job)
        study.note(f"started job {job} at {api.url}")
    else:
        study.note(f"going on with job {job} at {api.url}")
    done = _follow(api, study, job)
    if done.status != "succeeded":
        kept.forget()
        from rung.remote.openai import RemoteFault

        why = done.error.message if done.error and done.error.message else "without saying why"
        raise RemoteFault(f"job {job} at {api.url} ended as {done.status}: {why}")
    return Tuned(done.fine_tuned_model, job, done.trained_tokens or 0)


def rows(examples: Sequence[Example]) -> bytes:
    """JSON lines as the files API wants them."""
    lines = [json.dumps({"messages": list(e.messages)}, ensure_ascii=False) for e in examples]
    return "".join(line + "\n" for line in lines).encode()


def _start(
    api: OpenAIApi, study: TuneRequest, parts: dict[str, bytes], epochs: int | None, suffix: str | None
) -> str:
    files = {}
    for name, content in parts.items():
        if content:
            study.note(f"uploading {len(content) / 1e3:,.0f} kB for {name.partition('_')[0]}")
            file = api.client.files.create(file=(f"{name}.jsonl", content), purpose="fine-tune")
            files[name] = file.id
    settings: dict[str, Any] = {"seed": study.seed}
    if epochs is not None:
        hyperparameters = {"n_epochs": epochs}
        settings["method"] = {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}}
    if suffix:
        settings["suffix"] = suffix
    return api.client.fine_tuning.jobs.create(model=api.model, **files, **settings).id


def _follow(api: OpenAIApi, study: TuneRequest, job: str) -> Any:
    """The job once it is over; what it says is passed on, except its figures."""
    pause, status, told = FIRST_LOOK, "", set()
    while True:
        with api.faults():
            found = api.client.fine_tuning.jobs.retrieve(job)
            events = api.client.fine_tuning.jobs.list_events(job, limit=100).data
        for event in reversed(events):  # the newest comes first
            if event.id not in told and event.type != "metrics":
                study.note(event.message)
            told.add(event.id)
        if found.status != status:
            status = found.status
            study.note(f"job {job}: {status.replace('_', ' ')}")
        if status in OVER:
            return found
        _sleep(pause, study, job)
        pause = min(LAST_LOOK, pause * 1.3)


def _sleep(seconds: float, study: TuneRequest, job: str) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if study.stopping():
            study.note(f"job {job} goes on without you: rung resume follows it")
            raise Interrupted
        time.sleep(min(0.2, left))


class _Kept:
    """The job that a run has started, for this model and these rows."""

    def __init__(self, path: Path, api: OpenAIApi, parts: dict[str, bytes]):
        digest = hashlib.sha256(b"".join(hashlib.sha256(p).digest() for p in parts.values()))
        self.path = path
        self.about = {"url": api.url, "model": api.model, "rows": digest.hexdigest()}

    def job(self) -> str | None:
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
            job = found.pop("job")
        except (OSError, ValueError, KeyError, AttributeError):
            return None
        return job if found == self.about else None

    def write(self, job: str) -> None:
        self.path.write_text(json.dumps({**self.about, "job": job}), encoding="utf-8")

    def forget(self) -> None:
        self.path.unlink(missing_ok=True)
