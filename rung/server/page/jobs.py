"""Tunings: start one, watch its loss, pause, go on or cancel, and chat with what it made."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from nicegui import ui

from rung import methods
from rung.config import knobs_of
from rung.data.knobs import DataKnobs
from rung.errors import RungError
from rung.server.jobs import OURS
from rung.server.page import data
from rung.server.page.fields import Fields
from rung.server.page.models import pairs
from rung.server.page.session import Visit, told
from rung.store.serving import ACTIVE, EventRecord, JobRecord
from rung.train.knobs import RunKnobs, TrainKnobs

EVERY = 1.0  # seconds between two looks at what is going on
SHOWN = 50  # jobs
LINES = 200  # events
COLOURS = {"succeeded": "positive", "failed": "negative", "running": "primary", "paused": "warning"}
FIRST = ("epochs", "lr", "batch_size")


@dataclass
class Watch:
    """A job that is looked at, and what has been heard of it so far."""

    id: str
    events: dict[int, EventRecord] = field(default_factory=dict)


def build(visit: Visit) -> Callable[[], Awaitable[None]]:
    """The part of the page; gives back what brings it up to date."""
    renew = _form(visit, lambda id: choose(id))
    with ui.element("div").classes("halves"):
        listed = ui.column().classes("wide list").props('role=list aria-label="Jobs"')
        with ui.column().classes("wide").props('role=region aria-label="Job"') as detail:
            view = View(visit)
    detail.set_visibility(False)
    known: dict[str, str] = {}

    async def choose(id: str) -> None:
        detail.set_visibility(True)
        view.open(id)
        await update()

    async def update() -> None:
        found = await visit.read("train", lambda: _listed(visit))
        now = {j.id: j.status for j in found}
        if now != known:
            known.clear()
            known.update(now)
            listed.clear()
            with listed:
                _list(found, choose)
        await view.update()

    async def refresh() -> None:
        async with told():
            await renew()
            await update()

    async def tick() -> None:
        if detail.is_deleted or not (view.live or any(s in ACTIVE for s in known.values())):
            return
        try:
            await update()
        except RungError:  # a key that was revoked, or a busy store: quiet until the visitor acts
            known.clear()
            view.live = False

    ui.timer(EVERY, tick)
    return refresh


def _listed(visit: Visit) -> Sequence[JobRecord]:
    """Read the tunings that the visitor may see, newest first."""
    return visit.service.store.jobs.list(limit=SHOWN, kind="tune", owner=visit.owner()).items


def _list(jobs: Sequence[JobRecord], choose: Callable[[str], Awaitable[None]]) -> None:
    if not jobs:
        ui.label("No tuning yet.").classes("faint")
    for job in jobs:
        with ui.item(on_click=lambda id=job.id: choose(id)).classes("pick").props("role=listitem"):
            with ui.item_section():
                ui.item_label(job.suffix or job.id)
                method = str(job.settings.get("method", "")).replace("_", " ")
                ui.item_label(f"{method} on {job.model}").props("caption")
            with ui.item_section().props("side"):
                _badge(job)


def _badge(job: JobRecord) -> ui.badge:
    colour = COLOURS.get(job.status, "grey-7")
    return ui.badge(job.status.replace("_", " ")).props(f"color={colour}")


class View:
    """One job, as it goes on."""

    def __init__(self, visit: Visit):
        self.visit, self.watch = visit, Watch("")
        self.live = False
        self._status = ""
        self.head = ui.column().classes("wide")
        self.chart = ui.echart(_chart([], [])).classes("chart").props('role=img aria-label="Loss"')
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
        job, fresh = await self.visit.read("train", lambda: self._hear(watch))
        if watch is not self.watch:
            return
        self.live = job.status in ACTIVE
        for event in fresh:
            watch.events[event.id] = event
        if job.status != self._status:
            self._status = job.status
            self.head.clear()
            with self.head:
                self._heading(job)
        if fresh:
            with self.log:
                for event in fresh[-LINES:]:
                    at = datetime.fromisoformat(event.created).strftime("%H:%M:%S")
                    line = ui.label(f"{at} {event.message}")
                    line.classes("bad" if event.level == "error" else "")
            self.log.run_method("scrollTo", 0, 1_000_000)
            self._draw()

    def _hear(self, watch: Watch) -> tuple[JobRecord, list[EventRecord]]:
        """The job, and its events that are not known yet, the oldest first."""
        jobs, fresh, after = self.visit.service.store.jobs, list[EventRecord](), None
        jobs.get(watch.id, "tune", self.visit.owner())
        while True:
            page = jobs.events(watch.id, after=after, limit=200)
            new = [e for e in page.items if e.id not in watch.events]
            fresh += new
            if not page.has_more or len(new) < len(page.items):
                return jobs.get(watch.id), fresh[::-1]
            after = str(page.items[-1].id)

    def _draw(self) -> None:
        said = [e.data for e in self.watch.events.values() if e.kind == "metrics" and e.data]
        train = [[d["step"], d["train_loss"]] for d in said if "train_loss" in d]
        held = [[d["step"], d["valid_loss"]] for d in said if "valid_loss" in d]
        self.chart.options.clear()
        self.chart.options.update(_chart(train, held))
        self.chart.update()
        if train:
            self.chart.props["aria-label"] = f"Loss: {train[-1][1]:.4g} after step {train[-1][0]}"
        self.chart.set_visibility(bool(train))

    def _heading(self, job: JobRecord) -> None:
        with ui.row().classes("head"):
            ui.label(job.suffix or job.id).classes("title").props("role=heading aria-level=2")
            _badge(job).props("role=status")
        facts = {"job": job.id, "method": job.settings.get("method", ""), "model": job.model}
        facts["data"] = job.training_file
        if job.fine_tuned_model:
            facts["made"] = job.fine_tuned_model
        if job.error:
            facts["fault"] = job.error.get("message", "")
        pairs(facts)
        with ui.row():
            for word, icon, may in (
                ("Pause", "pause", job.status in ACTIVE),
                ("Resume", "play_arrow", job.status == "paused"),
                ("Cancel", "cancel", job.status in (*ACTIVE, "paused")),
            ):
                if may:
                    turn = self._turn(job.id, word.lower())
                    ui.button(word, icon=icon, on_click=turn).props("outline dense")
            if job.fine_tuned_model:
                ui.button("Chat with it", icon="forum", on_click=lambda: self._chat(job))

    def _turn(self, id: str, word: str) -> Callable[[], Awaitable[None]]:
        async def turn() -> None:
            async with told():
                await self.visit.api.post(f"/v1/fine_tuning/jobs/{id}/{word}")
                await self.update()

        return turn

    def _chat(self, job: JobRecord) -> None:
        self.visit.chosen["Chat"] = job.suffix or job.fine_tuned_model or ""
        self.visit.show("Chat")


def _chart(train: list, held: list) -> dict[str, Any]:
    """Options of ECharts; colours that stand out on light and on dark."""
    line = {"type": "line", "showSymbol": len(train) < 2, "animation": False}
    series = [{**line, "name": "training", "data": train, "itemStyle": {"color": "#3f83c9"}}]
    if held:
        dots = {"showSymbol": True, "itemStyle": {"color": "#d9822b"}}
        series.append({**line, "name": "validation", "data": held, **dots})
    grey = {"color": "#808a94"}
    axis = {"axisLabel": grey, "nameTextStyle": grey, "splitLine": {"lineStyle": {"opacity": 0.25}}}
    return {
        "grid": {"left": 50, "right": 16, "top": 34, "bottom": 40},
        "legend": {"textStyle": grey, "top": 4},
        "tooltip": {"trigger": "axis"},
        "xAxis": {"type": "value", "name": "step", "nameLocation": "middle", "nameGap": 24, **axis},
        "yAxis": {"type": "value", "name": "loss", "scale": True, **axis},
        "series": series,
    }


# --- starting one ---------------------------------------------------------------------------------


def _form(visit: Visit, begun: Callable[[str], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
    """What to tune, on what, and how; gives back what brings its lists up to date."""
    said = {name: f"{name.replace('_', ' ')}: {methods.get(name).summary}" for name in methods.names()}
    with ui.expansion("Start a tuning", icon="add").classes("item"), ui.column().classes("inside"):
        with ui.element("div").classes("fields"):
            outlined = "outlined dense options-dense"
            file = ui.select({}, label="Data set").props(outlined)
            held = ui.select({}, label="Validation set (optional)", clearable=True).props(outlined)
            model = ui.select([], label="Model to begin from").props(outlined)
            method = ui.select(said, label="Method", value=RunKnobs.method).props(outlined)
            name = ui.input("Name").props('outlined dense placeholder="such as support"')
        place = ui.column().classes("wide")
        start = ui.button("Start", icon="rocket_launch")
    groups: list[Fields] = []

    def fields() -> None:
        place.clear()
        groups.clear()
        chosen = methods.get(method.value)
        usual = chosen.defaults
        train = [k for k in knobs_of(TrainKnobs) if k.name not in OURS]
        with place:
            groups.append(Fields([k for k in train if k.name in FIRST], usual))
            for title, knobs in (
                (f"Settings of {method.value.replace('_', ' ')}", knobs_of(chosen.Config)),
                ("Settings of training", [k for k in train if k.name not in FIRST]),
                ("Settings of data", [k for k in knobs_of(DataKnobs) if k.name not in OURS]),
            ):
                if knobs:
                    with ui.expansion(title, icon="tune").classes("wide"):
                        groups.append(Fields(knobs, usual))

    async def begin() -> None:
        async with told():
            settings = {key: value for group in groups for key, value in group.given().items()}
            body = {
                "model": model.value, "training_file": file.value, "validation_file": held.value,
                "suffix": (name.value or "").strip() or None,
                "method": {"type": method.value, method.value: {"hyperparameters": settings}},
            }  # fmt: skip
            made = await visit.api.post(
                "/v1/fine_tuning/jobs", json={k: v for k, v in body.items() if v is not None}
            )
            ui.notify("The tuning is queued", type="positive")
            await begun(made["id"])

    async def renew() -> None:
        listed = [m["id"] for m in (await visit.api.get("/v1/models"))["data"]]
        names = [n for n in listed if ":ckpt-step-" not in n]
        model.set_options(names, value=model.value if model.value in names else names[0])
        found = data.options(await visit.read("train", lambda: data.files(visit)))
        file.set_options(found, value=file.value if file.value in found else next(iter(found), None))
        held.set_options(found, value=held.value if held.value in found else None)

    method.on_value_change(fields)
    start.on_click(begin)
    fields()
    return renew
