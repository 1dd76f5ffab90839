"""Data from a description: a plan that can be edited, rows that a model writes, and what follows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from nicegui import ui

from rung.config import knobs_of
from rung.errors import ConfigError, RungError
from rung.server.page.fields import Fields
from rung.server.page.job_view import Watch, badge, left, turn_buttons, when, write_log
from rung.server.page.models import pairs
from rung.server.page.rows import Rows
from rung.server.page.session import Visit, told
from rung.server.syntheses import FILES, OWNERS
from rung.store.records import moment
from rung.store.serving import ACTIVE, JobRecord
from rung.synthesis import kinds
from rung.synthesis.kinds import usual
from rung.synthesis.knobs import SynthKnobs

EVERY = 1.0  # seconds between two looks at what goes on
SHOWN = 50  # maximum number of syntheses listed
# Knobs that have a field of their own, or take files.
OWN = frozenset({"examples", "teacher", "share", "topics", "kinds", "labels", *FILES})
# Of who rates rows, which is a model to name: the API takes one.
JUDGED = frozenset({"judge", "min_score"})


def build(visit: Visit) -> Callable[[], Awaitable[None]]:
    """Build the part of the page; returns what brings it up to date."""
    form = _Form(visit, lambda id: choose(id))
    with ui.row().classes("pickers") as pickers:
        picked = ui.select({}, label="Made so far").props("outlined dense options-dense")
        picked.classes("field")
    view = _View(visit, form)
    rows = Rows(visit)
    known: dict[str, str] = {}

    async def choose(id: str) -> None:
        view.open(id)
        await update()

    async def update() -> None:
        jobs = await visit.read("train", lambda: _listed(visit))
        if jobs and not view.watch.id:  # the newest, without a click
            form.fold()
            view.open(jobs[0].id)
        known.clear()
        known.update({job.id: job.status for job in jobs})
        found = {job.id: _line(job) for job in jobs}
        pickers.set_visibility(bool(found))
        if found != picked.options or picked.value != view.watch.id:
            picked.set_options(found, value=view.watch.id or None)
        if (made := await view.update()) is not None:
            await (rows.renew() if rows.dirty else rows.open(made))
            await visit.stepped()

    async def refresh() -> None:
        async with told():
            await form.renew()
            await rows.renew()
            await update()

    async def tick() -> None:
        if view.region.is_deleted or not (view.live or any(s in ACTIVE for s in known.values())):
            return
        try:
            await update()
        except RungError:  # a key that was revoked, or a busy store: quiet until the visitor acts
            known.clear()
            view.live = False

    async def changed() -> None:
        if picked.value not in (None, view.watch.id):
            async with told():
                await choose(picked.value)

    picked.on_value_change(changed)
    ui.timer(EVERY, tick)
    return refresh


def _listed(visit: Visit) -> list[JobRecord]:
    jobs = visit.service.store.jobs
    return list(jobs.list(limit=SHOWN, kind="synth", owner=visit.owner()).items)


def _line(job: JobRecord) -> str:
    what = "plan" if job.settings["plan_only"] else f"{job.settings['knobs']['examples']:,} rows"
    return f"{job.name}: {what}, {when(job.created)} ({job.status})"


# --- what is wanted -------------------------------------------------------------------------------


class _Form:
    """Description, plan and settings of what is to be written."""

    def __init__(self, visit: Visit, begun: Callable[[str], Awaitable[None]]):
        self.visit, self._begun = visit, begun
        self.planning: str | None = None  # id of the plan that was asked for last
        self._asked = ("", "")  # topics and labels as they stood then
        self._form = ui.expansion("Describe what you need", icon="edit_note", value=True)
        with self._form.classes("item"), ui.column().classes("inside"):
            self._draw()

    def _draw(self) -> None:
        ui.label(
            "A model plans topics, then writes rows about them: prompts and answers, checked and "
            "without duplicates. Each row keeps who wrote it, and under which licence."
        ).classes("faint")
        outlined = "outlined dense options-dense"
        self._said = ui.textarea("What the model should do, in a sentence or two").props(
            'outlined autogrow rows=2 placeholder="such as: Answers any worry with one warm sentence."'
        )
        self._said.classes("wide")
        with ui.element("div").classes("fields"):
            self._name = ui.input("Name").props('outlined dense placeholder="such as coach"')
            self._count = ui.number("Number of examples", value=SynthKnobs.examples, min=1, precision=0)
            self._count.props("outlined dense")
            self._model = ui.select([], label="Who writes").props(outlined)
            self._kind = ui.select(_kinds(), label="What rows are", value=usual(False)).props(outlined)
            self._labels = ui.input("Labels, with commas between").props(
                'outlined dense hint="Left empty, the model names them."'
            )
        self._kind.on_value_change(self._labelled)
        self._labelled()
        with ui.expansion("More settings", icon="tune").classes("wide"):
            knobs = knobs_of(SynthKnobs)
            self._more = Fields([k for k in knobs if k.name not in OWNERS | OWN | JUDGED])
        self._topics = ui.textarea("Topics, one in each line").props(
            'outlined autogrow rows=3 hint="Left empty, the model plans them."'
        )
        self._topics.classes("wide")
        with ui.row().classes("head"):
            self._plan = ui.button("Plan topics", icon="checklist", on_click=lambda: self._ask(True))
            self._plan.props("outline")
            self._write = ui.button("Write rows", icon="draw", on_click=lambda: self._ask(False))

    def _labelled(self) -> None:
        self._labels.set_visibility(kinds.get(self._kind.value).labelled)

    async def renew(self) -> None:
        """Bring the list of models up to date."""
        listed = [m["id"] for m in (await self.visit.api.get("/v1/models"))["data"]]
        names = [n for n in listed if ":ckpt-step-" not in n]
        keep = self._model.value
        self._model.set_options(names, value=keep if keep in names else names[0])

    def fold(self) -> None:
        """Close the form, whose place others need."""
        self._form.close()

    def planned(self, job: JobRecord) -> None:
        """Put the plan of a synthesis into the form, to be edited."""
        plan = job.settings.get("plan") or {}
        self._topics.set_value("\n".join(plan.get("topics", ())))
        self._labels.set_value(", ".join(plan.get("labels", ())))

    def planned_anew(self, job: JobRecord) -> None:
        """Put the plan that was asked for into the form, unless the visitor has written another."""
        self.planning = None
        if (self._topics.value, self._labels.value) == self._asked:
            self.planned(job)

    def again(self, job: JobRecord) -> None:
        """Open the form with what a synthesis was asked for, and its plan."""
        asked = job.settings["knobs"]
        self._said.set_value(job.settings["description"])
        self._kind.set_value(asked["kinds"] or usual(False))
        self._count.set_value(asked["examples"])
        if asked["teacher"] and asked["teacher"][0] in self._model.options:
            self._model.set_value(asked["teacher"][0])
        self._more.fill(job.settings["given"])
        self.planned(job)
        self._form.open()

    async def _ask(self, plan_only: bool) -> None:
        async with told(self._plan, self._write):
            said = (self._said.value or "").strip()
            if not said:
                raise ConfigError("describe what the model should do, in a sentence or two")
            written = (self._topics.value, self._labels.value)
            topics = [line.strip() for line in (self._topics.value or "").split("\n") if line.strip()]
            settings = {"kinds": self._kind.value, **self._more.given()}
            if self._count.value is not None:
                settings["examples"] = int(self._count.value)
            labels = [one.strip() for one in (self._labels.value or "").split(",") if one.strip()]
            if labels and kinds.get(self._kind.value).labelled:
                settings["labels"] = labels
            body = {
                "description": said, "model": self._model.value,
                "name": (self._name.value or "").strip() or None, "plan_only": plan_only,
                "topics": None if plan_only else topics or None, "settings": settings,
            }  # fmt: skip
            made = await self.visit.api.post("/v1/rung/syntheses", json=body)
            if plan_only:
                self.planning, self._asked = made["id"], written
            else:
                self._form.close()  # what is wanted now is the rows
            await self._begun(made["id"])


def _kinds() -> dict[str, str]:
    """Kinds of rows for a select, without those that need documents."""
    found = [kinds.get(name) for name in kinds.names()]
    return {k.name: f"{k.name}: {k.summary}" for k in found if not k.from_documents}


# --- one synthesis --------------------------------------------------------------------------------


class _View:
    """One synthesis as it goes on."""

    def __init__(self, visit: Visit, form: _Form):
        self.visit, self._form, self.watch, self.live = visit, form, Watch(""), False
        self._seen: tuple[Any, ...] = ()
        self._given = False  # whether its file was handed on
        with ui.column().classes("wide").props('role=region aria-label="Synthesis"') as self.region:
            self._head = ui.column().classes("wide job-head")
            self._bar = ui.linear_progress(0, show_value=False).props(
                'size=6px aria-label="Rows written"'
            )
            self._told = ui.label("").classes("faint").props("role=status")
            self._facts = ui.column().classes("wide")
            with ui.expansion("What it says", icon="terminal").classes("wide"):
                self._log = ui.column().classes("lines").props("role=log aria-label=Events tabindex=0")
        self.region.set_visibility(False)

    def open(self, id: str) -> None:
        """Look at another synthesis."""
        self.watch, self._seen, self._given, self.live = Watch(id), (), False, True
        self._log.clear()
        self.region.set_visibility(True)

    async def update(self) -> str | None:
        """Hear what is new; returns the file of its rows when they are first seen."""
        watch = self.watch
        if not watch.id:
            return None
        job, fresh = await self.visit.read("train", lambda: watch.hear(self.visit, "synth"))
        if watch is not self.watch:
            return None
        self.live = job.status in ACTIVE
        fresh = watch.keep(fresh)
        if fresh:
            write_log(self._log, fresh)
        self._progress(job)
        now = (job.status, job.settings.get("plan"))
        if now != self._seen:
            self._seen = now
            self._show(job)
        if job.status == "succeeded" and job.id == self._form.planning:
            self._form.planned_anew(job)
        if job.status != "succeeded" or not job.result_file or self._given:
            return None
        self._given = True
        return await self.visit.read("train", lambda: self._file(job))

    def _file(self, job: JobRecord) -> str | None:
        """The file of a job's rows, unless somebody has deleted it."""
        files = self.visit.service.store.files.list(purpose="fine-tune", owner=self.visit.owner())
        return next((f.id for f in files.items if f.id == job.result_file), None)

    def _progress(self, job: JobRecord) -> None:
        done, wanted = job.settings.get("rows", 0), job.settings["knobs"]["examples"]
        plan_only = job.settings["plan_only"]
        self._bar.set_value(round(done / wanted, 3))
        self._bar.set_visibility(job.status in (*ACTIVE, "paused"))
        self._bar.props.set_bool("indeterminate", self.live and not done)
        parts = [] if plan_only or not self.live else [f"{done:,} of {wanted:,} rows"]
        if self.live and job.status == "queued":
            parts.append("waits for its turn")
        elif self.live and not done:
            planned = job.settings.get("plan")
            parts.append("the first drafts are being written" if planned else "planning")
        if self.live and job.estimate and done:
            parts.append(left((moment(job.estimate) - datetime.now(UTC)).total_seconds()))
        self._told.text = ", ".join(parts)

    def _show(self, job: JobRecord) -> None:
        self._head.clear()
        self._facts.clear()
        with self._head:
            with ui.row().classes("head"):
                ui.label(job.name).classes("title name").props("role=heading aria-level=2")
                badge(job).props("role=status")
            if job.error:
                ui.label(job.error.get("message", "")).classes("said bad").props("role=alert")
            with ui.row():
                self._buttons(job)
        with self._facts:
            pairs(_facts(job))

    def _buttons(self, job: JobRecord) -> None:
        if job.settings.get("plan"):
            ui.button("Edit this plan", icon="edit", on_click=lambda: self._form.again(job)).props(
                "outline dense"
            )
        turn_buttons(self.visit, job, "/v1/rung/syntheses", self.update)


def _facts(job: JobRecord) -> dict[str, str]:
    said, made = job.settings, job.settings.get("made")
    facts = {"description": said["description"], "written by": ", ".join(said["knobs"]["teacher"])}
    if plan := said.get("plan"):
        facts["topics"] = "; ".join(plan["topics"])
        if plan["labels"]:
            facts["labels"] = ", ".join(plan["labels"])
    if made:
        covered = made["diversity"]
        facts["rows"] = f"{made['rows']:,}" + (f": {made['short']}" if made["short"] else "")
        facts["licence"] = f"{made['licence_class']}: {'; '.join(made['reasons'])}"
        facts["spread"] = f"{covered['covered']} of {covered['topics']} topics have rows"
        refused = [f"{why} {count:,}" for why, count in made["refused"].items()]
        facts["refused drafts"] = ", ".join(refused) or "none"
    facts |= {"begun": when(job.created), "synthesis": job.id}
    return facts
