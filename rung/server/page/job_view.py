"""One tuning as it goes on: how far it is, its curves, what it is made of, what it says."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import PurePath

from nicegui import ui

from rung.server.page.curves import Charts
from rung.server.page.models import pairs
from rung.server.page.session import Visit, told
from rung.store import Store
from rung.store.records import moment
from rung.store.serving import ACTIVE, EventRecord, FileNotFound, JobKind, JobRecord
from rung.train.knobs import RunKnobs

LINES = 200  # maximum number of events shown
COLOURS = {"succeeded": "positive", "failed": "negative", "running": "primary", "paused": "warning"}
WORDS = {"validating_files": "reading the data", "succeeded": "done"}  # others are said as they are


@dataclass(frozen=True)
class Seen:
    """A job with what is shown of it beside its own columns.

    Attributes:
        data: the name of its data. step, steps: how far it is; 0 where it has not begun.
    """

    job: JobRecord
    data: str
    step: int = 0
    steps: int = 0

    @property
    def name(self) -> str:
        """What the visitor called it; else its data's name."""
        return self.job.suffix or PurePath(self.data).stem

    @property
    def method(self) -> str:
        """Its method in words, with its objective where that is not the usual one."""
        words = str(self.job.settings.get("method", "")).replace("_", " ")
        objective = self.job.settings.get("objective", RunKnobs.objective)
        return words if objective == RunKnobs.objective else f"{words} by {objective}"

    @property
    def share(self) -> float:
        """The part of its steps that is done."""
        return self.step / self.steps if self.steps else 0.0

    def progress(self) -> str:
        """Steps done and time left, as far as they are known."""
        parts = [f"step {self.step:,} of {self.steps:,}"] if self.steps else []
        if self.job.estimate and self.job.status in ACTIVE:
            parts.append(left((moment(self.job.estimate) - datetime.now(UTC)).total_seconds()))
        return ", ".join(parts)


def left(seconds: float) -> str:
    """Time left, no more exact than an estimate is."""
    if seconds < 5:
        return "a few seconds left"
    if seconds < 90:
        return f"about {max(5, 5 * round(seconds / 5))} s left"
    minutes = round(seconds / 60)
    return f"about {minutes} min left" if minutes < 90 else f"about {minutes / 60:.1f} h left"


def when(created: str) -> str:
    """A stored moment as a date that one reads at a glance, in UTC as everywhere on the page."""
    at, today = moment(created), datetime.now(UTC).date()
    if at.date() == today:
        return f"today {at:%H:%M} UTC"
    return f"{at:%-d %b %H:%M} UTC" if at.year == today.year else f"{at:%-d %b %Y}"


def see(store: Store, job: JobRecord) -> Seen:
    """Read what is shown of a job beside its own columns."""
    try:
        data = store.files.get(job.training_file).name
    except FileNotFound:
        data = "data that was deleted"
    events = store.jobs.events(job.id, limit=20).items
    last = next((e.data for e in events if e.kind == "metrics" and e.data), {})
    return Seen(job, data, last.get("step", 0), last.get("total_steps", 0))


def badge(job: JobRecord) -> ui.badge:
    """Show a job's state in words and colour."""
    colour = COLOURS.get(job.status, "grey-8")
    return ui.badge(WORDS.get(job.status, job.status.replace("_", " "))).props(f"color={colour}")


@dataclass
class Watch:
    """A job that is looked at, and what has been heard of it so far."""

    id: str
    events: dict[int, EventRecord] = field(default_factory=dict)

    def hear(self, visit: Visit, kind: JobKind) -> tuple[JobRecord, list[EventRecord]]:
        """Read the job, and its events that are not known yet, the oldest first."""
        jobs, fresh, after = visit.service.store.jobs, list[EventRecord](), None
        jobs.get(self.id, kind, visit.owner())
        while True:
            page = jobs.events(self.id, after=after, limit=200)
            new = [e for e in page.items if e.id not in self.events]
            fresh += new
            if not page.has_more or len(new) < len(page.items):
                return jobs.get(self.id), fresh[::-1]
            after = str(page.items[-1].id)

    def keep(self, heard: Sequence[EventRecord]) -> list[EventRecord]:
        """Note events; returns those that nobody else, who asked at the same time, has noted."""
        fresh = [e for e in heard if e.id not in self.events]
        self.events.update({e.id: e for e in fresh})
        return fresh


def turn_buttons(
    visit: Visit, job: JobRecord, address: str, update: Callable[[], Awaitable[object]]
) -> None:
    """Draw the buttons that pause a job, go on with it and end it, those that its status allows.

    Args:
        address: of its kind of job in the API. update: brings the view up to date behind a click.
    """

    def turning(word: str) -> Callable[[], Awaitable[None]]:
        async def turn() -> None:
            async with told():
                await visit.api.post(f"{address}/{job.id}/{word}")
                await update()

        return turn

    for word, icon, may in (
        ("Pause", "pause", job.status in ACTIVE),
        ("Resume", "play_arrow", job.status == "paused"),
        ("Cancel", "cancel", job.status in (*ACTIVE, "paused")),
    ):
        if may:
            ui.button(word, icon=icon, on_click=turning(word.lower())).props("outline dense")


def write_log(log: ui.column, fresh: Sequence[EventRecord]) -> None:
    """Add events to a log, and show the last of them."""
    with log:
        for event in fresh[-LINES:]:
            at = datetime.fromisoformat(event.created).strftime("%H:%M:%S")
            line = ui.label(f"{at} {event.message}")
            line.classes("bad" if event.level == "error" else "")
    log.run_method("scrollTo", 0, 1_000_000)


class View:
    """One job, as it goes on. The loss stands first, so that it is seen without scrolling."""

    def __init__(self, visit: Visit):
        self.visit, self.watch = visit, Watch("")
        self.live = False
        self._status = ""
        self.head = ui.column().classes("wide job-head")
        self.bar = ui.linear_progress(0, show_value=False).props('size=6px aria-label="Progress"')
        self.told = ui.label("").classes("faint").props("role=status")
        self.charts = Charts()
        self.facts = ui.column().classes("wide")
        with ui.expansion("What it says", icon="terminal", value=True).classes("wide"):
            self.log = ui.column().classes("lines").props("role=log aria-label=Events tabindex=0")

    def open(self, id: str) -> None:
        """Look at another job."""
        self.watch, self._status, self.live = Watch(id), "", True
        self.log.clear()
        self._draw()

    async def update(self) -> None:
        """Hear what is new."""
        watch = self.watch
        if not watch.id:
            return
        seen, fresh = await self.visit.read("train", lambda: self._hear(watch))
        if watch is not self.watch:
            return
        self.live = seen.job.status in ACTIVE
        fresh = watch.keep(fresh)
        self._progress(seen)
        if seen.job.status != self._status:
            self._status = seen.job.status
            self.head.clear()
            self.facts.clear()
            with self.head:
                self._heading(seen)
            with self.facts:
                _facts(seen)
            await self.visit.stepped()
        if fresh:
            write_log(self.log, fresh)
            self._draw()

    def _hear(self, watch: Watch) -> tuple[Seen, list[EventRecord]]:
        job, fresh = watch.hear(self.visit, "tune")
        return see(self.visit.service.store, job), fresh

    def _progress(self, seen: Seen) -> None:
        self.bar.set_value(round(seen.share, 3))
        self.bar.set_visibility(seen.job.status in (*ACTIVE, "paused"))
        self.bar.props.set_bool("indeterminate", self.live and not seen.steps)
        self.told.text = seen.progress()

    def _draw(self) -> None:
        self.charts.draw([e.data for e in self.watch.events.values() if e.kind == "metrics" and e.data])

    def _heading(self, seen: Seen) -> None:
        job = seen.job
        with ui.row().classes("head"):
            ui.label(seen.name).classes("title name").props("role=heading aria-level=2")
            badge(job).props("role=status")
        if job.error:
            ui.label(job.error.get("message", "")).classes("said bad").props("role=alert")
        with ui.row():
            if job.fine_tuned_model:
                ui.button("Chat with it", icon="forum", on_click=lambda: self._chat(job))
            turn_buttons(self.visit, job, "/v1/fine_tuning/jobs", self.update)

    def _chat(self, job: JobRecord) -> None:
        self.visit.chosen["Chat"] = job.suffix or job.fine_tuned_model or ""
        self.visit.show("Chat")


def _facts(seen: Seen) -> None:
    job = seen.job
    facts = {"data": seen.data, "method": seen.method, "from": job.model, "begun": when(job.created)}
    if job.fine_tuned_model:
        facts["made"] = job.fine_tuned_model
    facts["job"] = job.id
    pairs(facts)
