"""Tunings: start one, watch its loss, pause, go on or cancel, and chat with what it made."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from nicegui import ui

from rung import methods, objectives
from rung.config import knobs_of
from rung.data.knobs import DataKnobs
from rung.errors import RungError
from rung.server.jobs import OURS
from rung.server.page import data
from rung.server.page.fields import Fields, attribute
from rung.server.page.job_view import Seen, View, badge, see, when
from rung.server.page.session import Visit, told
from rung.store.serving import ACTIVE
from rung.train.knobs import RunKnobs, TrainKnobs

EVERY = 1.0  # seconds between two looks at what is going on
SHOWN = 50  # maximum number of jobs listed
FIRST = ("epochs", "lr", "batch_size")


def build(visit: Visit) -> Callable[[], Awaitable[None]]:
    """The part of the page; gives back what brings it up to date."""
    renew = _form(visit, lambda id: choose(id))
    halves = ui.element("div").classes("halves")
    with halves:
        listing = Listing(lambda id: choose(id))
        with ui.column().classes("wide detail").props('role=region aria-label="Job"') as detail:
            view = View(visit)
    detail.set_visibility(False)
    known: dict[str, str] = {}

    async def choose(id: str) -> None:
        detail.set_visibility(True)
        view.open(id)
        await update()
        detail.run_method("scrollIntoView", {"block": "nearest"})

    async def update() -> None:
        found = await visit.read("train", lambda: _listed(visit))
        if found and not view.watch.id:  # what goes on, else the newest, without a click
            first = next((s for s in found if s.job.status in ACTIVE), found[0])
            detail.set_visibility(True)
            view.open(first.job.id)
        known.clear()
        known.update({s.job.id: s.job.status for s in found})
        listing.show(found, view.watch.id)
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


def _listed(visit: Visit) -> list[Seen]:
    """Read the tunings that the visitor may see, newest first."""
    store = visit.service.store
    jobs = store.jobs.list(limit=SHOWN, kind="tune", owner=visit.owner()).items
    return [see(store, job) for job in jobs]


class Listing:
    """The list of tunings. A row is drawn once and then changed, so that it stays under the finger."""

    def __init__(self, choose: Callable[[str], Awaitable[None]]):
        self._choose = choose
        self._place = ui.column().classes("wide list")
        self._rows: dict[str, _Row] = {}

    def show(self, found: Sequence[Seen], chosen: str) -> None:
        """Bring the list up to date."""
        if [s.job.id for s in found] != list(self._rows) or not found:
            self._place.clear()
            # A list that holds no items is none.
            self._place.props(**{"add" if found else "remove": 'role=list aria-label="Jobs"'})
            with self._place:
                self._rows = {s.job.id: _Row(s, self._choose) for s in found}
                if not found:
                    ui.label(
                        "No tuning yet. Bring a data set under Data, or have one written under Make, "
                        "then start here."
                    )
        for seen in found:
            self._rows[seen.job.id].show(seen, chosen)


class _Row:
    """A line of the list."""

    def __init__(self, seen: Seen, choose: Callable[[str], Awaitable[None]]):
        job = seen.job
        self.item = ui.item(on_click=lambda: choose(job.id)).classes("pick").props("role=listitem")
        with self.item:
            with ui.item_section():
                ui.item_label(seen.name).classes("name")
                ui.item_label(f"{seen.method} on {seen.data}").props("caption")
                ui.item_label(when(job.created)).props("caption")
                self.bar = ui.linear_progress(seen.share, show_value=False).props(
                    f'size=4px aria-label="Progress of {attribute(seen.name)}"'
                )
                self.told = ui.item_label("").props("caption")
            self.side = ui.item_section().props("side top")
        self._status = ""

    def show(self, seen: Seen, chosen: str) -> None:
        """Say how far the job is, and whether it is the one looked at."""
        live = seen.job.status in ACTIVE
        picked = seen.job.id == chosen
        self.item.classes(**{"add" if picked else "remove": "picked"})
        self.item.props(**{"add" if picked else "remove": "aria-current=true"})
        self.bar.set_value(round(seen.share, 3))
        self.told.text = seen.progress() if live else ""
        for part in (self.bar, self.told):
            part.set_visibility(live)
        if seen.job.status != self._status:
            self._status = seen.job.status
            self.side.clear()
            with self.side:
                badge(seen.job)


# --- starting one ---------------------------------------------------------------------------------


def _form(visit: Visit, begun: Callable[[str], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
    """What to tune, on what, and how; gives back what brings its lists up to date."""
    said = {name: f"{name.replace('_', ' ')}: {methods.get(name).summary}" for name in methods.names()}
    form = ui.expansion("Start a tuning", icon="add").classes("item")
    with form, ui.column().classes("inside"):
        with ui.element("div").classes("fields"):
            outlined = "outlined dense options-dense"
            file = ui.select({}, label="Data set").props(outlined)
            held = ui.select({}, label="Validation set (optional)", clearable=True).props(outlined)
            model = ui.select([], label="Model to begin from").props(outlined)
            method = ui.select(said, label="Method", value=RunKnobs.method).props(outlined)
            sought = {n: f"{n}: {objectives.get(n).summary}" for n in objectives.names()}
            objective = ui.select(sought, label="Objective", value=RunKnobs.objective).props(outlined)
            name = ui.input("Name").props('outlined dense placeholder="such as support"')
        place = ui.column().classes("wide")
        with ui.row().classes("head"):
            start = ui.button("Start", icon="rocket_launch")
            bring = ui.button("Bring data first", icon="upload_file").props("outline")
    bring.on_click(lambda: visit.show("Data"))
    groups: list[Fields] = []

    def fields() -> None:
        typed = {key: value for group in groups for key, value in group.given().items()}
        place.clear()
        groups.clear()
        chosen, minimised = methods.get(method.value), objectives.get(objective.value)
        usual = minimised.usual(chosen.defaults)
        train = [k for k in knobs_of(TrainKnobs) if k.name not in OURS]
        with place:
            groups.append(Fields([k for k in train if k.name in FIRST], usual))
            for title, knobs in (
                (f"Settings of {method.value.replace('_', ' ')}", knobs_of(chosen.Config)),
                (f"Settings of {objective.value}", knobs_of(minimised.Config)),
                ("Settings of training", [k for k in train if k.name not in FIRST]),
                ("Settings of data", [k for k in knobs_of(DataKnobs) if k.name not in OURS]),
            ):
                if knobs:
                    with ui.expansion(title, icon="tune").classes("wide"):
                        groups.append(Fields(knobs, usual))
        for group in groups:
            group.fill(typed)

    async def begin() -> None:
        async with told(start):
            settings = {key: value for group in groups for key, value in group.given().items()}
            kind = method.value
            if objective.value != RunKnobs.objective:
                kind, settings["method"] = objective.value, method.value
            body = {
                "model": model.value, "training_file": file.value, "validation_file": held.value,
                "suffix": (name.value or "").strip() or None,
                "method": {"type": kind, kind: {"hyperparameters": settings}},
            }  # fmt: skip
            made = await visit.api.post(
                "/v1/fine_tuning/jobs", json={k: v for k, v in body.items() if v is not None}
            )
            form.close()  # what is wanted now is the loss
            name.value = None
            await begun(made["id"])
            await visit.stepped()

    async def renew() -> None:
        listed = [m["id"] for m in (await visit.api.get("/v1/models"))["data"]]
        names = [n for n in listed if ":ckpt-step-" not in n]
        model.set_options(names, value=model.value if model.value in names else names[0])
        found = data.options(await visit.read("train", lambda: data.files(visit)))
        wanted = visit.chosen.pop("Jobs", None)
        if wanted in found:  # the visitor comes from this data set
            form.open()
        keep = wanted if wanted in found else file.value
        file.set_options(found, value=keep if keep in found else next(iter(found), None))
        start.set_enabled(bool(found))
        bring.set_visibility(not found)
        held.set_options(found, value=held.value if held.value in found else None)

    for choice in (method, objective):
        choice.on_value_change(fields)
    start.on_click(begin)
    fields()
    return renew
