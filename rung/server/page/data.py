"""Data sets: upload one and see its rows as a training will, with what is learnt marked."""

from __future__ import annotations

import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nicegui import events, ui

from rung.config import Knob, knobs_of, resolve
from rung.data.knobs import DataKnobs
from rung.data.report import Report, Shown, report
from rung.server.page.fields import Fields
from rung.server.page.models import pairs, sure
from rung.server.page.session import Visit, told

if TYPE_CHECKING:
    from rung.store.serving import FileRecord

COLUMNS = ("system", "user", "assistant", "text", "label", "where")
ROWS = 8  # rendered
LIMIT = 2000  # rows that are looked at, unless the visitor says otherwise
MAX_SHOWN_CHARACTERS = 4000  # characters of a row that are shown
BRING = "Bring a data set: JSON, JSON lines, CSV, Parquet or text"
# Quasar's own head of an upload puts the input into its button, where screen readers find it again.
UPLOAD_HEAD = f"""<div class="q-uploader__header-content row no-wrap items-center">
  <div class="col">
    <div class="q-uploader__title">{BRING}</div>
    <div class="q-uploader__subtitle">
      {{{{ props.uploadSizeLabel }}}} / {{{{ props.uploadProgressLabel }}}}
    </div>
  </div>
  <q-btn v-if="props.canAddFiles" flat dense icon="add" aria-label="Choose a data set"
    @click="props.pickFiles" />
  <q-btn v-if="props.isUploading" flat dense icon="clear" aria-label="Stop" @click="props.abort" />
  <span class="hidden"><q-uploader-add-trigger /></span>
</div>"""
KINDS = ".jsonl,.json,.csv,.tsv,.parquet,.txt"


def of_columns() -> list[Knob]:
    """The knobs that say which column is what."""
    return [k for k in knobs_of(DataKnobs) if k.name in COLUMNS]


def files(visit: Visit) -> list[FileRecord]:
    """Read what the visitor may train on, the newest first."""
    store = visit.service.store
    return list(store.files.list(purpose="fine-tune", limit=1000, owner=visit.owner()).items)


def options(found: list[FileRecord]) -> dict[str, str]:
    """Files for a select: id -> what to show."""
    return {f.id: f"{f.name} ({_size(f.bytes)}, {f.created[:16].replace('T', ' ')})" for f in found}


def look(visit: Visit, file: str, model: str, settings: dict[str, Any]) -> Report:
    """What `rung data` would say of a file, with the template of a served model.

    Raises:
        RungError: where the file cannot be read as examples, in one line.
    """
    from rung.data import load, split
    from rung.store.files import place

    service = visit.service
    path = str(place(service.store.files.get(file, visit.owner()).stored))
    (knobs,) = resolve([DataKnobs], {"limit": LIMIT, **settings, "data": path})
    dataset = load(knobs)
    return report(
        dataset, split(dataset, knobs), service.engine.model(model).template, max_length=1024, show=ROWS
    )


def build(visit: Visit) -> Callable[[], Awaitable[None]]:
    """The part of the page; gives back what brings its lists up to date."""
    with ui.element("div").classes("sides"):
        with ui.column().classes("wide"):
            upload = ui.upload(auto_upload=True, max_file_size=visit.service.limits.max_file)
            upload.props(f'accept="{KINDS}" flat bordered').classes("wide")
            upload.add_slot("header", UPLOAD_HEAD)
        with ui.column().classes("wide"):
            file = ui.select({}, label="Data set").props("outlined dense options-dense").classes("wide")
            model = ui.select([], label="As this model sees it").props("outlined dense options-dense")
            model.classes("wide")
            with ui.row():
                tune = ui.button("Tune on it", icon="model_training")
                show = ui.button("Show", icon="visibility").props("outline")
                remove = ui.button("Delete", icon="delete").props("flat color=negative")
    with ui.expansion("Which column is what", icon="view_column").classes("wide"):
        ui.label("Format strings over the columns of a row; needed where Rung cannot tell.").classes(
            "faint"
        )
        columns = Fields(of_columns())
        limit = ui.number("Rows to look at", value=LIMIT, min=1, precision=0).props("outlined dense")
    place = ui.column().classes("wide").props("role=region aria-label='The data set' aria-live=polite")
    newest = 0  # number of the last look at a data set: an earlier one that ends behind it is not shown

    async def refresh() -> None:
        async with told():
            listed = [m["id"] for m in (await visit.api.get("/v1/models"))["data"]]
            names = [n for n in listed if ":ckpt-step-" not in n]
            model.set_options(names, value=model.value if model.value in names else names[0])
            found = options(await visit.read("train", lambda: files(visit)))
            wanted = visit.chosen.pop("Data", None) or file.value
            file.set_options(found, value=wanted if wanted in found else next(iter(found), None))
            for button in (tune, show, remove):
                button.set_enabled(bool(found))

    def begin() -> None:
        visit.chosen["Jobs"] = file.value
        visit.show("Jobs")

    async def take(given: events.UploadEventArguments) -> None:
        async with told():
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "upload"
                await given.file.save(path)
                with path.open("rb") as content:
                    made = await visit.api.post(
                        "/v1/files",
                        files={"file": (given.file.name, content)},
                        data={"purpose": "fine-tune"},
                    )
            upload.run_method("removeUploadedFiles")  # `reset` would end an upload that goes on
            visit.chosen["Data"] = made["id"]
            await refresh()
            await visit.stepped()
            await render()

    async def render() -> None:
        nonlocal newest
        if not file.value:
            return
        newest = mine = newest + 1
        place.clear()
        with place:
            ui.spinner().props('aria-label="reading"')
        async with told():
            said = columns.given() | ({"limit": int(limit.value)} if limit.value else {})
            id, name = file.value, model.value
            try:
                found = await visit.read("train", lambda: look(visit, id, name, said))
            finally:
                if mine == newest:
                    place.clear()
            if mine != newest:
                return
            with place:
                _summary(found)
                for row in found.shown:
                    _row(row)

    async def delete() -> None:
        async with told(remove):
            id = file.value  # the list may change while the question stands
            if not id or not await sure(f"Delete {file.options[id]}?", "Delete"):
                return
            await visit.api.delete(f"/v1/files/{id}")
            place.clear()
        await refresh()

    upload.on_upload(take)
    tune.on_click(begin)
    show.on_click(render)
    remove.on_click(delete)
    return refresh


def _summary(found: Report) -> None:
    sizes = found.lengths
    facts = {
        "format": f"{found.format} ({found.how})",
        "rows": f"{found.rows:,}",
        f"{sizes.unit} a row": f"{sizes.least:,} least, {sizes.median:,} median, {sizes.p95:,} at 95%, "
        f"{sizes.most:,} most",
        "duplicates": f"{found.duplicates:,}",
        "licence": found.licence,
    }
    if found.supervised is not None:
        facts["learnt"] = f"{found.supervised:,} tokens of the training rows"
    if found.labels:
        first = list(found.labels.items())[:12]
        facts["labels"] = ", ".join(f"{name} {count:,}" for name, count in first)
    pairs(facts)
    for problem in sorted(found.problems, key=lambda p: p.severity):
        style = "bad" if problem.severity == "error" else "warn"
        ui.label(f"{problem.severity}: {problem.message}").classes(f"said {style}")
    with ui.row().classes("faint legend"):
        with ui.element("mark"):
            ui.label("Marked").classes("inline")
        ui.label("is what a training learns to write; the rest is only read.")


def _row(row: Shown) -> None:
    """A row as the model sees it; what is learnt stands in <mark>."""
    with ui.card().props("flat bordered").classes("wide row-card"):
        ui.label(f"{_line(row.origin)}: {row.tokens:,} tokens, {row.supervised:,} learnt").classes(
            "faint"
        )
        with ui.element("pre").classes("rendered"):
            left = MAX_SHOWN_CHARACTERS
            for span in row.spans:
                text = span.text[:left]
                left -= len(text)
                if text:
                    with ui.element("mark" if span.supervised else "span"):
                        ui.label(text).classes("inline")
            if left <= 0:
                ui.label(" …").classes("inline")


def _line(origin: str) -> str:
    """`file-1f.jsonl:12` -> `line 12`; the stored name means nothing to a visitor."""
    _, colon, number = origin.rpartition(":")
    return f"line {number}" if colon and number.isdigit() else origin


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"
