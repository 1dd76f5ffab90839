"""What a job's process does: `python -m rung.server.worker check|work JOB`.

`check` reads the files and says what is wrong with them. `work` tunes, climbs or writes rows, or goes
on where an earlier worker stopped, and tells the store of every step. SIGTERM leaves a checkpoint.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from rung import home, objectives
from rung.config import knobs_of, resolve
from rung.data.knobs import DataKnobs
from rung.errors import DataError, Interrupted, RungError
from rung.store import Store
from rung.store.files import fresh_id, in_lines, place
from rung.store.jobs import NAMES
from rung.store.records import ENDED, stamp
from rung.store.serving import Conflict, JobKind, JobRecord
from rung.train.observers import Observer, Outcome, Started, Step, Stop, Validation
from rung.train.plan import Plan

if TYPE_CHECKING:
    from rung.train.prepare import Prepared

TELL = 1.0  # seconds between two writings of events
LARGEST = 256 << 20  # bytes of an adapter that is kept as a checkpoint
DATA = frozenset(k.name for k in knobs_of(DataKnobs))
FAILED: dict[JobKind, str] = {
    "tune": "training_failed", "climb": "training_failed", "synth": "synthesis_failed",
}  # fmt: skip
# What a run's log says of a step beside its metrics.
LOGGED = frozenset({"step", "lr", "gradient_norm", "tokens", "seconds", "tokens_seen"})
COLUMNS = ("step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy")


def check(job: JobRecord, store: Store) -> None:
    """Read both files; the job is queued, or fails naming file and line."""
    from rung.data import load

    settings = job.settings.get("given", job.settings)
    (knobs,) = resolve([DataKnobs], {k: v for k, v in settings.items() if k in DATA})
    wants = objectives.get(settings["objective"]).wants if "objective" in settings else "replies"
    for param, source in (("training_file", knobs.data), ("validation_file", knobs.validation_data)):
        if not source:
            continue
        try:
            found = load(replace(knobs, data=source, validation_data=None, test_data=None), wants)
        except (DataError, RungError) as fault:
            fail(job, store, f"invalid {param}: {in_lines(str(fault))}", f"invalid_{param}", param)
            return
        told = f"{param}: {len(found)} rows, read as {found.format}"
        store.jobs.say(job.id, [("info", "message", told, {})])
    try:
        say = "Files validated, moving job to queued state"
        store.jobs.turn(job.id, "queued", among=["validating_files"], say=say, attempts=0)
    except Conflict:
        return  # paused or cancelled meanwhile


def fail(job: JobRecord, store: Store, message: str, code: str, param: str | None = None) -> None:
    """End the job with what went wrong."""
    error = {"code": code, "message": message, "param": param}
    try:
        store.jobs.turn(
            job.id, "failed", among=["validating_files", "queued", "running"], say=message, error=error
        )
    except Conflict:
        return


def work(job: JobRecord, store: Store) -> None:
    """Do what the job is for, or go on where an earlier worker stopped, and say how it ended."""
    try:
        say = f"{NAMES[job.kind].capitalize()} started" if job.status == "queued" else None
        job = store.jobs.turn(job.id, "running", among=["queued", "running"], say=say)
    except Conflict:
        return
    job = store.jobs.claim(job.id)
    try:
        values = WORK[job.kind](job, store)
    except Interrupted:
        return
    except DataError as fault:
        fail(job, store, in_lines(str(fault)), "invalid_training_file", "training_file")
        return
    except RungError as fault:
        fail(job, store, in_lines(str(fault)), FAILED[job.kind])
        return
    except Exception as fault:
        traceback.print_exc()
        fail(job, store, in_lines(f"{type(fault).__name__}: {fault}"[:500]), "server_error")
        return
    store.jobs.update(job.id, made=True, estimate=None, pid=0, **values)


def tune(job: JobRecord, store: Store) -> dict[str, Any]:
    """Leave a tuned model in the store; returns the columns of the job that tell of it.

    Raises:
        Interrupted: once a checkpoint is written.
    """
    teller = Telling(job, store)
    try:
        outcome = _tuned(job, store, teller)
    except Interrupted as stopped:
        if store.jobs.get(job.id).status == "cancelled":
            store.runs.update(str(stopped), status="cancelled")
        raise
    finally:
        teller.flush()
    result = _results(job, store, outcome.model.run or "")
    return {"result_file": result, "trained_tokens": outcome.state.tokens}


def climb(job: JobRecord, store: Store) -> dict[str, Any]:
    """Climb, as `climb_worker`, which needs the parts of a climb."""
    from rung.server import climb_worker

    return climb_worker.climb(job, store)


def synthesise(job: JobRecord, store: Store) -> dict[str, Any]:
    """Write rows, as `synthesis_worker`, which needs the parts of a synthesis."""
    from rung.server import synthesis_worker

    return synthesis_worker.synthesise(job, store)


WORK: dict[JobKind, Callable[[JobRecord, Store], dict[str, Any]]] = {
    "tune": tune, "climb": climb, "synth": synthesise,
}  # fmt: skip


def _tuned(job: JobRecord, store: Store, teller: Telling) -> Outcome:
    """A fresh tuning, or the one that an earlier worker did not finish."""
    from rung.train.job import resume, tune

    open_runs = [r for r in store.runs.list(model=job.name) if r.status not in ENDED]
    if open_runs:
        store.jobs.say(job.id, [("info", "message", "Going on from the last checkpoint", {})])
        # Whoever had the job before is gone, on whatever host that was.
        return resume(open_runs[0].id, teller, store, replace=True, force=True)
    return tune(Plan.of(job.name, job.settings), teller, store, replace=True)


class Telling(Observer):
    """Turns what training reports into events, checkpoints and an estimate of the end."""

    def __init__(self, job: JobRecord, store: Store):
        self.job, self.store = job, store
        self.steps, self.began, self.began_at = 0, time.monotonic(), 0
        self.begun: Started | None = None
        self.last: dict[str, Any] = {}
        self._events: list[tuple[str, str, str, dict[str, Any]]] = []
        self._told = time.monotonic()

    def stage(self, text: str) -> None:
        self._add("info", "message", text[:1].upper() + text[1:], {})
        self.flush()

    def note(self, text: str) -> None:
        self._add("warn", "message", text, {})

    def prepared(self, prepared: Prepared) -> None:
        for problem in prepared.problems:
            self._add("warn", "message", problem.message, {})
        self.flush()

    def started(self, started: Started) -> None:
        self.begun = started
        self._expect(started.estimate.seconds)

    def begin(self, steps: int, at: int) -> None:
        self.steps, self.began, self.began_at = steps, time.monotonic(), at
        self.flush()

    def step(self, event: Step) -> None:
        self.last = {"step": event.step, **_named("train", event.metrics)}
        told = f"Step {event.step}/{self.steps}: training loss={event.metrics['loss']:.4f}"
        self._add("info", "metrics", told, {**self.last, "total_steps": self.steps})
        self._keep_if_due(event.step)
        if time.monotonic() - self._told > TELL:
            pace = (time.monotonic() - self.began) / max(1, event.step - self.began_at)
            self._expect(pace * (self.steps - event.step))
            self.flush()

    def validated(self, event: Validation) -> Stop | None:
        found = _named("valid", event.metrics)
        # Rung always validates on all of the held-out rows.
        found |= {f"full_{k}": v for k, v in found.items()}
        kept = self.last.get("step") == event.step
        self.last = {**(self.last if kept else {"step": event.step}), **found}
        told = f"Step {event.step}/{self.steps}: validation {event.best}={event.value:.4f}"
        self._add("info", "metrics", told, {**self.last, "total_steps": self.steps})
        self._keep_if_due(event.step)
        return None

    def flush(self) -> None:
        """Write what has gathered."""
        self._told = time.monotonic()
        events, self._events = self._events, []
        self.store.jobs.say(self.job.id, events)

    def _add(self, level: str, kind: str, message: str, data: dict[str, Any]) -> None:
        self._events.append((level, kind, in_lines(message), data))

    def _expect(self, seconds: float) -> None:
        end = stamp(datetime.fromtimestamp(time.time() + seconds, UTC))
        self.store.jobs.update(self.job.id, estimate=end)

    def _keep_if_due(self, step: int) -> None:
        if self.begun and (step % self.begun.per_epoch == 0 or step == self.steps):
            self._keep(self.begun)

    def _keep(self, begun: Started) -> None:
        """Keep the adapter as it is now, as a model that can be asked."""
        from rung.artefacts import folders
        from rung.methods import artefact

        if begun.adapter.size * 4 > LARGEST:
            return
        plan, ready, step = begun.plan, begun.prepared, self.last["step"]
        folder = home.folder("jobs") / self.job.id / f"step-{step}"

        def fill(temporary: Path) -> None:
            artefact.save(
                temporary, begun.adapter, ready.bank, plan.method, plan.config, ready.base,
                ready.template, {"metrics": self.last},
            )  # fmt: skip

        folders.write(folder, fill)
        name = f"ckpt-step-{step}"
        for old in self.store.jobs.checkpoint(
            self.job.id, step=step, model=name, folder=str(folder), metrics=self.last
        ):
            shutil.rmtree(old.folder, ignore_errors=True)


def _named(part: str, metrics: dict[str, float]) -> dict[str, float]:
    """An objective's metrics under OpenAI's names for those of a part, such as `train_loss`."""
    own = {"token_accuracy": "mean_token_accuracy"}
    return {f"{part}_{own.get(k, k)}": v for k, v in metrics.items()}


def _columns(entry: dict[str, Any]) -> dict[str, Any]:
    """A line of a run's log in the columns of the results file; figures of other objectives beside."""
    own = {"token_accuracy": "accuracy", "validation_token_accuracy": "mean_token_accuracy"}
    found = {}
    for name, value in entry.items():
        if name not in LOGGED:
            part = "valid" if name.startswith("validation_") else "train"
            plain = own.get(name, name.removeprefix("validation_"))
            found[f"{part}_{plain}"] = value
    return found


def _results(job: JobRecord, store: Store, run: str) -> str:
    """The figures of every step as a CSV file of the client's; returns its id."""
    rows: dict[int, dict[str, Any]] = {}
    path = home.folder("runs") / run / "log.jsonl"
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        entry = json.loads(line)
        rows.setdefault(entry["step"], {"step": entry["step"]}).update(_columns(entry))
    more = dict.fromkeys(name for row in rows.values() for name in row if name not in COLUMNS)
    out = io.StringIO()
    writer = csv.DictWriter(out, [*COLUMNS, *more], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows[step] for step in sorted(rows))
    id, content = fresh_id(), out.getvalue().encode()
    place(f"{id}.csv").write_bytes(content)
    store.files.put(
        id,
        name="step_metrics.csv",
        purpose="fine-tune-results",
        stored=f"{id}.csv",
        size=len(content),
        owner=job.owner,
    )
    return id


def main(kind: str, id: str) -> int:
    """Do one part of one job; whoever else is at it already is left alone."""
    try:
        with FileLock(home.folder("jobs") / f"{id}.lock", timeout=0), Store.open() as store:
            job = store.jobs.get(id)
            (check if kind == "check" else work)(job, store)
    except Timeout:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
