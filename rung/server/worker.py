"""What a tuning job's process does: `python -m rung.server.worker check|train JOB`.

`check` reads the files and says what is wrong with them. `train` tunes, or goes on where an earlier
worker stopped, and tells the store of every step. SIGTERM leaves a checkpoint.
"""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import sys
import time
import traceback
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from rung import home
from rung.errors import DataError, Interrupted, RungError
from rung.store import Store
from rung.store.files import fresh_id, place
from rung.store.records import ENDED, stamp
from rung.store.serving import Conflict, JobRecord
from rung.train.observers import Observer, Outcome, Started, Step, Stop, Validation
from rung.train.plan import Plan

TELL = 1.0  # seconds between two writings of events
LARGEST = 256 << 20  # bytes of an adapter that is kept as a checkpoint
COLUMNS = ("step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy")


def check(job: JobRecord, store: Store) -> None:
    """Read both files; the job is queued, or fails naming file and line."""
    from rung.data import load

    plan = Plan.of(job.name, job.settings)
    parts = [("training_file", plan.data.data), ("validation_file", plan.data.validation_data)]
    for param, source in parts:
        if not source:
            continue
        try:
            found = load(replace(plan.data, data=source, validation_data=None, test_data=None))
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


def in_lines(text: str) -> str:
    """A fault of data with the generated name of the file left out: `file-0a1b.jsonl:7` is line 7."""
    text = re.sub(r"file-[0-9a-f]{24}\.\w+:(\d+)", r"line \1", text)
    return re.sub(r"\S*file-[0-9a-f]{24}(\.\w+)?", "the file", text)


def fail(job: JobRecord, store: Store, message: str, code: str, param: str | None = None) -> None:
    """End the job with what went wrong."""
    error = {"code": code, "message": message, "param": param}
    try:
        store.jobs.turn(
            job.id, "failed", among=["validating_files", "queued", "running"], say=message, error=error
        )
    except Conflict:
        return


def train(job: JobRecord, store: Store) -> None:
    """Tune, and leave a model in the store."""
    try:
        say = "Fine-tuning job started" if job.status == "queued" else None
        job = store.jobs.turn(job.id, "running", among=["queued", "running"], say=say)
    except Conflict:
        return
    store.jobs.claim(job.id)
    teller = Telling(job, store)
    try:
        outcome = _tuned(job, store, teller)
    except Interrupted as stopped:
        teller.flush()
        if store.jobs.get(job.id).status == "cancelled":
            store.runs.update(str(stopped), status="cancelled")
        return
    except DataError as fault:
        fail(job, store, in_lines(str(fault)), "invalid_training_file", "training_file")
        return
    except RungError as fault:
        fail(job, store, in_lines(str(fault)), "training_failed")
        return
    except Exception as fault:
        traceback.print_exc()
        fail(job, store, f"{type(fault).__name__}: {fault}"[:500], "server_error")
        return
    teller.flush()
    result = _results(job, store, outcome.model.run or "")
    store.jobs.update(
        job.id, made=True, result_file=result, trained_tokens=outcome.state.tokens, estimate=None, pid=0
    )


def _tuned(job: JobRecord, store: Store, teller: Telling) -> Outcome:
    """A fresh tuning, or the one that an earlier worker did not finish."""
    from rung.train.job import resume, tune

    open_runs = [r for r in store.runs.list(model=job.name) if r.status not in ENDED]
    if open_runs:
        store.jobs.say(job.id, [("info", "message", "Going on from the last checkpoint", {})])
        return resume(open_runs[0].id, teller, store)
    return tune(Plan.of(job.name, job.settings), teller, store, replace=True)


class Telling(Observer):
    """Turns what training reports into events, checkpoints and an estimate of the end."""

    def __init__(self, job: JobRecord, store: Store):
        self.job, self.store = job, store
        self.steps, self.began, self.began_at = 0, time.monotonic(), 0
        self.started_with: Started | None = None
        self.last: dict[str, Any] = {}
        self._events: list[tuple[str, str, str, dict[str, Any]]] = []
        self._told = time.monotonic()

    def stage(self, text: str) -> None:
        self._add("info", "message", text[:1].upper() + text[1:], {})
        self.flush()

    def note(self, text: str) -> None:
        self._add("warn", "message", text, {})

    def started(self, started: Started) -> None:
        self.started_with = started
        self._expect(started.estimate.seconds)

    def begin(self, steps: int, at: int) -> None:
        self.steps, self.began, self.began_at = steps, time.monotonic(), at
        self.flush()

    def step(self, event: Step) -> None:
        named = {"loss": "train_loss", "accuracy": "train_mean_token_accuracy"}
        figures = {named.get(k, f"train_{k}"): v for k, v in event.metrics.items()}
        self.last = {"step": event.step, **figures}
        told = f"Step {event.step}/{self.steps}: training loss={event.metrics['loss']:.4f}"
        self._add("info", "metrics", told, {**self.last, "total_steps": self.steps})
        self._keep_if_due(event.step)
        if time.monotonic() - self._told > TELL:
            pace = (time.monotonic() - self.began) / max(1, event.step - self.began_at)
            self._expect(pace * (self.steps - event.step))
            self.flush()

    def validated(self, event: Validation) -> Stop | None:
        named = {"token_accuracy": "mean_token_accuracy"}
        found = {f"valid_{named.get(k, k)}": v for k, v in event.metrics.items()}
        # Rung always validates on all of the held-out rows.
        found |= {f"full_{k}": v for k, v in found.items()}
        kept = self.last.get("step") == event.step
        self.last = {**(self.last if kept else {"step": event.step}), **found}
        told = f"Step {event.step}/{self.steps}: validation {event.best}={event.value:.4f}"
        self._add("info", "metrics", told, {**self.last, "total_steps": self.steps})
        self._keep_if_due(event.step)
        return None

    def _keep_if_due(self, step: int) -> None:
        per_epoch = self.started_with.per_epoch if self.started_with else 1
        if step % per_epoch == 0 or step == self.steps:
            self._keep()

    def flush(self) -> None:
        """Write what has gathered."""
        self._told = time.monotonic()
        events, self._events = self._events, []
        self.store.jobs.say(self.job.id, events)

    def _add(self, level: str, kind: str, message: str, data: dict[str, Any]) -> None:
        self._events.append((level, kind, message, data))

    def _expect(self, seconds: float) -> None:
        end = stamp(datetime.fromtimestamp(time.time() + seconds, UTC))
        self.store.jobs.update(self.job.id, estimate=end)

    def _keep(self) -> None:
        """Keep the adapter as it is now, as a model that can be asked."""
        from rung.artefacts import folders
        from rung.methods import artefact

        begun = self.started_with
        if begun is None or begun.adapter.size * 4 > LARGEST:
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


def _results(job: JobRecord, store: Store, run: str) -> str:
    """The figures of every step as a CSV file of the client's; returns its id."""
    rows: dict[int, dict[str, Any]] = {}
    path = home.folder("runs") / run / "log.jsonl"
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        entry = json.loads(line)
        row = rows.setdefault(entry["step"], {"step": entry["step"]})
        row |= {"train_loss": entry["loss"]} if "loss" in entry else {}
        row |= {"train_accuracy": entry["accuracy"]} if "accuracy" in entry else {}
        if "validation_loss" in entry:
            row["valid_loss"] = entry["validation_loss"]
            row["valid_mean_token_accuracy"] = entry["validation_token_accuracy"]
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows[step] for step in sorted(rows))
    id, content = fresh_id(), out.getvalue().encode()
    place(f"{id}.csv").write_bytes(content)
    store.files.put(
        id, name="step_metrics.csv", purpose="fine-tune-results", stored=f"{id}.csv", size=len(content)
    )
    return id


def main(kind: str, id: str) -> int:
    """Do one part of one job; whoever else is at it already is left alone."""
    try:
        with FileLock(home.folder("jobs") / f"{id}.lock", timeout=0), Store.open() as store:
            job = store.jobs.get(id)
            (check if kind == "check" else train)(job, store)
    except Timeout:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
