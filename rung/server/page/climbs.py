"""Climbs: start one, see its scorecard fill, read its report, interrupt it and go on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from nicegui import ui

from rung.config import knobs_of
from rung.errors import RungError
from rung.ladder.bar import BASE
from rung.ladder.knobs import ClimbKnobs
from rung.ladder.scorecard import Row, Scorecard, duration, interval, made
from rung.server.climbs import WHERE, go_on, interrupt
from rung.server.page import data
from rung.server.page.fields import Fields
from rung.server.page.job_view import when
from rung.server.page.models import pairs, titled, titles
from rung.server.page.session import Visit, told
from rung.store.climbs import ClimbRecord
from rung.store.serving import ACTIVE, JobRecord

EVERY = 2.0  # seconds between two looks
LINES = 200  # maximum number of events shown
COLOURS = {
    "succeeded": "positive",
    "failed": "negative",
    "running": "primary",
    "interrupted": "warning",
}
FIRST = ("bar", "budget", "only", "requests")


@dataclass(frozen=True)
class Listed:
    """The climbs that a visitor may see, and the jobs of those that were ordered here."""

    climbs: list[ClimbRecord]
    jobs: list[JobRecord]


@dataclass(frozen=True)
class Seen:
    """A climb as it is now.

    Attributes:
        log: what its job has said, where it has one. data: what its data is called.
        ordered: whether a job is to go on with it, or does.
    """

    card: Scorecard
    log: str
    data: str
    ordered: bool = False

    def differs(self, other: Seen) -> bool:
        """Whether more than the lines of the log is another."""
        return (self.card, self.ordered, not self.log) != (other.card, other.ordered, not other.log)


class Folds:
    """The parts of a climb that can be unfolded, and whether they are: kept as it is drawn anew."""

    def __init__(self) -> None:
        self._open: set[str] = set()

    def expansion(self, part: str, title: str, icon: str) -> ui.expansion:
        """Draw a part as it was left."""

        def turned(event: Any) -> None:
            (self._open.add if event.value else self._open.discard)(part)

        drawn = ui.expansion(title, icon=icon, value=part in self._open, on_value_change=turned)
        return drawn.classes("wide")


def build(visit: Visit) -> Callable[[], Awaitable[None]]:
    """Build the part of the page; returns what brings it up to date."""
    renew = _form(visit, lambda: update())
    notice = ui.column().classes("wide").props("role=status")
    with ui.row().classes("pickers") as pickers:
        picked = ui.select({}, label="Climb").props("outlined dense options-dense").classes("field")
    place = ui.column().classes("wide").props('role=region aria-label="Scorecard"')
    drawn: dict[str, Any] = {}
    folds = Folds()

    async def update() -> None:
        listed = await visit.read("train", lambda: _listed(visit))
        found = {r.id: f"{r.name}, {when(r.started)} ({r.status})" for r in listed.climbs}
        newest = listed.climbs[0].id if listed.climbs else None
        # What was just begun is what one wants to see.
        keep = picked.value if picked.value in found and newest == drawn.get("newest") else newest
        drawn["newest"] = newest
        if found != picked.options or keep != picked.value:
            picked.set_options(found, value=keep)
        drawn["live"] = any(j.status in ACTIVE for j in listed.jobs)
        pickers.set_visibility(bool(found))
        _not_begun(listed.jobs, notice, empty=not found)
        record = next((r for r in listed.climbs if r.id == keep), None)
        if record is None:
            drawn["seen"] = None
            place.clear()
            return
        job = next((j for j in listed.jobs if j.climb == record.id), None)
        seen = await visit.read("train", lambda: see(visit, record, job))
        if picked.value != record.id:  # another was picked meanwhile
            return
        before: Seen | None = drawn.get("seen")
        drawn["seen"] = seen
        if before is None or seen.differs(before):
            place.clear()
            with place:
                drawn["log"] = _show(visit, seen, update, folds)
        elif seen.log != before.log:
            drawn["log"].text = seen.log

    async def refresh() -> None:
        async with told():
            await renew()
            await update()

    async def tick() -> None:
        if not place.is_deleted and (drawn.get("live") or _running(drawn)):
            try:
                await update()
            except RungError:  # a key that was revoked, or a busy store: quiet until the visitor acts
                drawn.update(live=False, seen=None)

    async def changed() -> None:
        async with told():
            await update()

    picked.on_value_change(changed)
    ui.timer(EVERY, tick)
    return refresh


def _running(drawn: dict[str, Any]) -> bool:
    seen = drawn.get("seen")
    return seen is not None and seen.card.climb.status == "running"


def _listed(visit: Visit) -> Listed:
    """Read the climbs; a key that does not open all sees those that it has ordered."""
    store, owner = visit.service.store, visit.owner()
    jobs = list(store.jobs.list(kind="climb", owner=owner).items)
    own = {j.climb for j in jobs}
    return Listed([c for c in store.climbs.list() if owner is None or c.id in own], jobs)


def see(visit: Visit, record: ClimbRecord, job: JobRecord | None) -> Seen:
    """Read a climb, with its rungs and what its job has said, from the store."""
    store, lines = visit.service.store, list[str]()
    if job is not None:
        events = store.jobs.events(job.id, limit=LINES).items
        lines = [f"{e.created[11:19]} {e.message}" for e in reversed(events)]
    card = Scorecard.of(store, record)
    data = titled(str(card.data.get("name", "")), titles(visit))
    return Seen(card, "\n".join(lines), data, job is not None and job.status in ACTIVE)


def _not_begun(jobs: list[JobRecord], notice: ui.column, empty: bool) -> None:
    """Tell of jobs whose climb has not begun yet, and of those that failed before it could."""
    notice.clear()
    with notice:
        if empty and not jobs:
            ui.label(
                "No climb yet. It begins with a data set that has a right answer for every row, such "
                "as labels: bring one under Data, or have it written under Make, then start here."
            )
        for job in jobs:
            if job.climb is not None:
                continue
            if job.status in ACTIVE:
                words = job.status.replace("_", " ")
                ui.label(f"{job.name}: {words}; the data and the base are read first").classes("faint")
            elif job.status == "failed":
                ui.label(f"{job.name}: {job.error.get('message', '')}").classes("said bad")


def _show(
    visit: Visit, seen: Seen, update: Callable[[], Awaitable[None]], folds: Folds
) -> ui.label | None:
    """Draw a climb; returns where its log stands, if it has one."""
    card, climb = seen.card, seen.card.climb
    with ui.row().classes("head"):
        ui.label(climb.name).classes("title name").props("role=heading aria-level=2")
        ui.badge(climb.status).props(f"color={COLOURS.get(climb.status, 'grey-8')}")
    if climb.verdict.get("says"):
        ui.label(climb.verdict["says"]).classes("said verdict")
    with ui.row():
        _buttons(visit, seen, update)
    counted = [r for r in card.rows if r.validation or r.status == "running" or r.key == card.winner]
    if counted:
        titles = ("way", card.metric.replace("_", " "), "making it", "an answer", "")
        with ui.element("div").classes("scroll").props('tabindex=0 role=region aria-label="Rungs"'):
            _table(titles, [(_words(r, card.winner), r.key == card.winner) for r in counted])
        ui.label(
            "Quality is on held-out rows; in brackets the range that holds it with 95% certainty."
        ).classes("faint")
    facts = {"data": seen.data, "base": card.base.get("name", "")}
    facts["bar"] = climb.bar or "none: every way that fits is tried"
    if card.licence:
        facts["licence"] = card.licence["class"]
    for n, line in enumerate(climb.verdict.get("next", []), 1):
        facts[f"next, {n}"] = line
    facts |= {"begun": when(climb.started), "climb": climb.id}
    pairs(facts)
    _others(card, [r for r in card.rows if r not in counted], folds)
    if not seen.log:
        return None
    with folds.expansion("log", "What it says", "terminal"):
        return ui.label(seen.log).classes("lines said")


def _words(row: Row, winner: str | None) -> tuple[str, ...]:
    """A rung as cells of the page's table."""
    note = "winner" if row.key == winner else made(row)
    if not row.validation:
        note = "at work" if row.status == "running" else row.reason or note
    about = "" if row.cost else "about "
    times = [duration(row.shown.get(key)) for key in ("seconds", "request_seconds")]
    return (_name(row), interval(row.validation), *(about + t if t else "" for t in times), note)


def _name(row: Row) -> str:
    return "the base as it is" if row.key == BASE else row.key.replace("_", " ")


def _others(card: Scorecard, rows: list[Row], folds: Folds) -> None:
    """What was not measured, and why, folded away: it decides nothing."""
    if not rows:
        return
    ended = card.climb.status == "succeeded"
    title = f"Not tried ({len(rows)})" if ended else f"Still to come ({len(rows)})"
    with folds.expansion("others", title, "more_horiz"), ui.element("ul").classes("tree"):
        for row in rows:
            time = duration(row.shown.get("seconds"))
            said = [f"would take about {time} to make"] if time else []
            said += [row.reason] if row.reason else []
            with ui.element("li"):
                ui.label(f"{_name(row)}: {'; '.join(said) or 'waiting'}").classes("said")


def _table(titles: tuple[str, ...], rows: list[tuple[tuple[str, ...], bool]]) -> None:
    """A plain table: its words are read out as such, and it needs no script."""
    with ui.element("table").classes("card-table"):
        with ui.element("thead"), ui.element("tr"):
            for title in titles:
                with ui.element("th" if title else "td").props("scope=col" if title else ""):
                    ui.label(title)
        with ui.element("tbody"):
            for words, won in rows:
                with ui.element("tr").classes("won" if won else ""):
                    for n, word in enumerate(words):
                        with ui.element("th" if n == 0 else "td").props("scope=row" if n == 0 else ""):
                            ui.label(word)


def _buttons(visit: Visit, seen: Seen, update: Callable[[], Awaitable[None]]) -> None:
    card, climb, client = seen.card, seen.card.climb, ui.context.client

    async def stop() -> None:
        async with told():
            await visit.read("train", lambda: interrupt(visit.service, climb))
            ui.notify("It keeps what is finished, and can be gone on with")

    async def resume() -> None:
        async with told(again):
            await visit.read("train", lambda: go_on(visit.service, climb))
            visit.service.wake()
            await update()

    async def open_report() -> None:
        from rung.ladder.report import render

        async with told():
            report = await visit.read("train", lambda: render(visit.service.store, card))
            # Beside the climb, not within: it is drawn anew while one reads.
            with client, ui.dialog().props("maximized") as dialog, ui.card().classes("report"):
                ui.button("Close", icon="close", on_click=dialog.close).props("flat autofocus")
                frame = ui.element("iframe").props('sandbox="" title="Report"').classes("frame")
                frame.props["srcdoc"] = report
            dialog.on_value_change(lambda: None if dialog.value else dialog.delete())
            dialog.open()

    async def serve() -> None:
        async with told():
            name = climb.verdict["model"]
            await visit.read("train", lambda: visit.service.catalogue.serve_kept(name))
            visit.chosen["Chat"] = name
            visit.show("Chat")

    if climb.status == "running" or seen.ordered:
        ui.button("Interrupt", icon="pause", on_click=stop).props("outline dense")
    elif climb.status in ("interrupted", "failed"):
        again = ui.button("Go on", icon="play_arrow", on_click=resume).props("outline dense")
    ui.button("Whole report", icon="description", on_click=open_report).props("outline dense")
    if climb.verdict.get("model"):
        ui.button("Chat with the winner", icon="forum", on_click=serve).props("dense")


def _form(visit: Visit, begun: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
    form = ui.expansion("Start a climb", icon="add").classes("item")
    with form, ui.column().classes("inside"):
        ui.label(
            "Rung tries its methods from the cheapest up, measures each on held-out rows, and stops at "
            "the first that clears the bar."
        ).classes("faint")
        with ui.element("div").classes("fields"):
            file = ui.select({}, label="Data set").props("outlined dense options-dense")
            name = ui.input("Name").props('outlined dense placeholder="such as headlines"')
        knobs = [k for k in knobs_of(ClimbKnobs) if k.name not in WHERE]
        groups = [Fields([k for k in knobs if k.name in FIRST])]
        with ui.expansion("More settings", icon="tune").classes("wide"):
            groups.append(Fields([k for k in knobs if k.name not in FIRST]))
        with ui.expansion("Which column is what", icon="view_column").classes("wide"):
            groups.append(Fields(data.of_columns()))
        with ui.row().classes("head"):
            start = ui.button("Start", icon="rocket_launch")
            bring = ui.button("Bring data first", icon="upload_file").props("outline")
    bring.on_click(lambda: visit.show("Data"))

    async def begin() -> None:
        async with told(start):
            settings = {key: value for group in groups for key, value in group.given().items()}
            body = {
                "model": visit.service.catalogue.bare.name, "training_file": file.value,
                "settings": settings, "name": (name.value or "").strip() or None,
            }  # fmt: skip
            await visit.api.post("/v1/rung/climbs", json=body)
            form.close()
            name.value = None
            await begun()

    async def renew() -> None:
        found = data.options(await visit.read("train", lambda: data.files(visit)))
        wanted = visit.chosen.pop("Climbs", None)
        if wanted in found:  # the visitor comes from this data set
            form.open()
        keep = wanted if wanted in found else file.value
        file.set_options(found, value=keep if keep in found else next(iter(found), None))
        start.set_enabled(bool(found))
        bring.set_visibility(not found)

    start.on_click(begin)
    return renew
