"""Syntheses for a job: plans, writes rows, and tells the job's events of every wave of drafts.

Answers of teachers are cached by content, so that a job whose worker was killed goes through what it
had at once and then goes on; its rows have the same bytes.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from rung import bases
from rung.config import resolve
from rung.errors import DataError, RungError
from rung.store import Store
from rung.store.files import in_lines, place
from rung.store.records import stamp
from rung.store.serving import FileNotFound, JobRecord
from rung.synthesis import pipeline, topics, writer
from rung.synthesis.knobs import SynthKnobs
from rung.synthesis.local_teacher import LocalTeacher
from rung.synthesis.pipeline import Made, Opener, Watcher
from rung.synthesis.teacher import Teacher
from rung.synthesis.terms import Part
from rung.train.job import stop_signal


def synthesise(job: JobRecord, store: Store) -> dict[str, Any]:
    """Plan, and write rows unless the job is only to plan.

    Returns:
        the columns of the job that tell of it.

    Raises:
        Interrupted: between two waves; answers are kept. RungError: where no row came of it.
    """
    teller = Teller(job, store)
    (knobs,) = resolve([SynthKnobs], job.settings["knobs"])
    said, base = job.settings["description"], trained(job.base)
    opened = opener(job.settings["specs"])
    with stop_signal() as stopping:
        watcher = teller.watcher(stopping)
        try:
            if job.settings["plan_only"]:
                pipeline.planned(said, knobs, watcher, base, opener=opened)
                return {}
            made = pipeline.synthesise(said, knobs, watcher, base, plan=_plan(job), opener=opened)
        except DataError as fault:
            raise RungError(f"the rows of settings.seeds or settings.against: {fault}") from None
    assert made is not None  # no plan to edit in a file was asked for
    if not made.rows:
        raise RungError(f"no row was good enough: {made.short}")
    if made.short:
        teller.say("warn", f"Fewer rows than were asked for: {made.short}")
    return {
        "result_file": _kept(job, store, made),
        "settings": {**teller.settings, "made": _told(made)},
    }


def opener(specs: Mapping[str, str]) -> Opener:
    """Open teachers by the names that clients know; nothing but what was looked up for them."""

    def opened(name: str, knobs: SynthKnobs) -> Teacher:
        return LocalTeacher(name, specs[name])

    return opened


def trained(base: str) -> Part:
    """The base that is to be trained on rows, as a part whose licence counts."""
    known = bases.resolve(base)
    return Part("base", known.name, known.licence, known.licence_class)


def _plan(job: JobRecord) -> topics.Plan | None:
    """The plan that the client gave, or that an earlier worker has made."""
    found = job.settings.get("plan")
    return None if found is None else topics.Plan(tuple(found["topics"]), tuple(found["labels"]))


class Teller:
    """Turns what a synthesis reports into events of its job, its plan, its progress and its end.

    Attributes:
        settings: of the job as they are now.
    """

    def __init__(self, job: JobRecord, store: Store):
        self.job, self.store = job, store
        self.settings = dict(job.settings)
        self._began, self._at = time.monotonic(), 0  # when there were how many rows

    def watcher(self, stopping: Callable[[], bool]) -> Watcher:
        """What the pipeline is to tell."""
        return Watcher(note=self.note, planned=self.planned, progress=self.progress, stopping=stopping)

    def say(self, level: str, message: str) -> None:
        """Add an event."""
        self.store.jobs.say(self.job.id, [(level, "message", message, {})])

    def note(self, text: str) -> None:
        """Warn of something, once in the life of the job."""
        notes = self.settings.get("notes", [])
        if text not in notes:
            self.say("warn", in_lines(text))
            self._set(notes=[*notes, text])

    def planned(self, plan: topics.Plan) -> None:
        """Keep the plan, once."""
        if "rows" not in self.settings:
            self.say("info", f"{len(plan.topics)} topics: {'; '.join(plan.topics)}")
        found = {"topics": list(plan.topics), "labels": list(plan.labels)}
        self._set(plan=found, rows=self.settings.get("rows", 0))

    def progress(self, done: int, wanted: int) -> None:
        """Tell of the rows so far; those that an earlier worker told of are not told again."""
        if done <= self.settings["rows"]:
            self._began, self._at = time.monotonic(), done
            return
        pace = (time.monotonic() - self._began) / (done - self._at)
        end = datetime.fromtimestamp(time.time() + pace * (wanted - done), UTC)
        told = f"{done} of {wanted} rows"
        figures = {"rows": done, "total_rows": wanted}
        self.store.jobs.say(self.job.id, [("info", "metrics", told, figures)])
        self._set(rows=done)
        self.store.jobs.update(self.job.id, estimate=stamp(end))

    def _set(self, **values: Any) -> None:
        self.settings |= values
        self.store.jobs.update(self.job.id, settings=self.settings)


def _kept(job: JobRecord, store: Store, made: Made) -> str:
    """Keep the rows as a file of the client's; a job has one, whichever worker writes it -> its id."""
    id = f"file-{hashlib.sha256(job.id.encode()).hexdigest()[:24]}"
    content = writer.text_of(made).encode()
    stored = f"{id}.jsonl"
    temporary = place(f"{stored}.{os.getpid()}")
    temporary.write_bytes(content)
    temporary.replace(place(stored))
    try:
        store.files.get(id)
    except FileNotFound:
        store.files.put(
            id, name=f"{job.name}.jsonl", purpose="fine-tune", stored=stored, size=len(content),
            owner=job.owner,
        )  # fmt: skip
    return id


def _told(made: Made) -> dict[str, Any]:
    """What is told of the rows beside themselves."""
    return {
        "rows": len(made.rows), "kind": made.kind.name, "licence": made.terms.licence,
        "licence_class": made.terms.licence_class,
        "reasons": [in_lines(one) for one in made.terms.reasons],
        "refused": dict(made.refused), "diversity": asdict(made.diversity), "short": made.short,
        "tokens": {t.name: t.usage.completion_tokens for t in made.teachers},
    }  # fmt: skip
