"""Climbs for a job: begins a climb or goes on with it, and tells the job's events of every rung."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from rung.config import resolve
from rung.ladder import climb as ladder
from rung.ladder.knobs import ClimbKnobs
from rung.ladder.observer import ClimbObserver
from rung.ladder.task_context import TaskContext
from rung.store import Store
from rung.store.climbs import ClimbRecord, RungRecord
from rung.store.files import in_lines
from rung.store.records import stamp
from rung.store.serving import JobRecord


def climb(job: JobRecord, store: Store) -> dict[str, Any]:
    """Climb for a job; rungs that an earlier worker has finished are not repeated.

    Returns:
        the columns of the job that tell of it.

    Raises:
        Interrupted: once what is finished is kept.
    """
    watcher = ClimbTeller(job, store)
    if job.climb is not None:
        store.jobs.say(job.id, [("info", "message", "Going on with the rungs that are left", {})])
        # Whoever had the job before is gone, on whatever host that was.
        record = ladder.resume(job.climb, watcher, store, force=True)
    else:
        (knobs,) = resolve([ClimbKnobs], job.settings["knobs"])
        name = ladder.free_name(job.name, store)
        record = ladder.climb(name, job.settings["given"], knobs, watcher, store)
    return {"climb": record.id}


class ClimbTeller(ClimbObserver):
    """Turns what a climb reports into events of its job, and an estimate of its end."""

    def __init__(self, job: JobRecord, store: Store):
        self.job, self.store = job, store
        self._told: dict[str, str] = {}

    def opened(self, bench: TaskContext, climb: ClimbRecord, warnings: Sequence[str]) -> None:
        left = max(0.0, bench.knobs.budget.seconds - climb.settings.get("spent", 0.0))
        end = stamp(datetime.fromtimestamp(time.time() + left, UTC))
        self.store.jobs.update(self.job.id, climb=climb.id, estimate=end)
        splits = bench.splits
        rows = f"{len(splits.train)} training, {len(bench.validation)} validation, "
        self._say("info", f"Climb {climb.id}: {rows}{len(bench.test)} test rows")
        for warning in warnings:
            self._say("warn", warning)

    def stage(self, text: str) -> None:
        self._say("info", text[:1].upper() + text[1:])

    def note(self, text: str) -> None:
        self._say("warn", text)

    def table(self, records: Sequence[RungRecord]) -> None:
        for record in records:
            before = self._told.get(record.key, "queued")
            self._told[record.key] = record.status
            if record.status != before and record.status not in ("queued", "running"):
                self._say("info", _line(record), {"rung": record.key, "status": record.status})

    def _say(self, level: str, message: str, data: dict[str, Any] | None = None) -> None:
        self.store.jobs.say(self.job.id, [(level, "message", in_lines(message), data or {})])


def _line(record: RungRecord) -> str:
    figure = record.metrics.get("validation")
    if figure and figure.get("value") is not None:
        return f"{record.key}: {figure.get('metric', 'score')} {figure['value']:.4g} on validation"
    return f"{record.key}: {record.reason or record.status}"
