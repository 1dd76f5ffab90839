"""The models: what each was made from and by which method, under which licence, and what it scores."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from nicegui import ui

from rung.errors import ConfigError
from rung.server.page.session import Visit, told

if TYPE_CHECKING:
    from rung.server.state import Service
    from rung.store.records import ModelRecord, Node

COLOURS = {"permissive": "positive", "restricted": "warning", "non-commercial": "warning"}
FIGURES = 6  # maximum number of metrics shown of an open card
HEADLINE = 2  # maximum number of metrics shown of a closed one


@dataclass(frozen=True)
class Entry:
    """A model, served or not.

    Attributes:
        names: those it answers to. lineage: empty for a bare base.
        titles: what the files are called that it was made from, by the names they are stored under.
    """

    name: str
    names: tuple[str, ...]
    method: str = "base"
    licence: str = "unknown"
    reasons: tuple[str, ...] = ()
    metrics: dict[str, Any] = field(default_factory=dict)
    created: str = ""
    lineage: Node | None = None
    titles: Mapping[str, str] = field(default_factory=dict)


def entries(visit: Visit) -> list[Entry]:
    """The base first, then what is served, then what is only kept, the newest of each first."""
    service = visit.service
    store, engine = service.store, service.engine
    served: dict[str, list[str]] = {}
    for name, model in list(engine.models.items()):
        if model.root is not None and ":ckpt-step-" not in name:
            served.setdefault(service.catalogue.stored_name(name), []).append(name)
    kept = {record.name: record for record in store.models.list()}
    base = next(m.name for m in engine.models.values() if m.root is None)
    known = next((b for b in store.bases.list() if b.name == base), None)
    own = tuple(n for n, m in engine.models.items() if m.root is None)
    found = [
        Entry(
            base, own, licence=known.licence_class if known else "unknown",
            reasons=(f"{base} is under {known.licence}",) if known else (),
        )
    ]  # fmt: skip
    # Put into the engine, not into the store.
    found += [Entry(n, tuple(names), method="unknown") for n, names in served.items() if n not in kept]
    made = sorted(kept.values(), key=lambda r: (r.name not in served, -r.created_unix, r.name))
    called = titles(visit)
    return found + [_kept(service, r, tuple(served.get(r.name, ())), called) for r in made]


def _kept(
    service: Service, record: ModelRecord, names: tuple[str, ...], titles: Mapping[str, str]
) -> Entry:
    group, reasons = service.store.licence(record.name)
    return Entry(
        record.name, names, record.method, group, reasons, record.metrics, record.created,
        service.store.lineage(record.name), titles,
    )  # fmt: skip


def build(visit: Visit) -> Callable[[], Awaitable[None]]:
    """The part of the page; gives back what brings it up to date."""
    place = ui.column().classes("wide")

    async def refresh() -> None:
        async with told():
            found = await visit.read(None, lambda: entries(visit))
            place.clear()
            with place:
                for entry in found:
                    _show(visit, entry, refresh)
                if len(found) == 1:
                    ui.label(
                        "Nothing has been made from this base yet. Bring a data set under Data, or "
                        "have one written under Make; then start a tuning under Jobs, or let a climb "
                        "find the cheapest way that is good enough."
                    )

    return refresh


def _show(visit: Visit, entry: Entry, refresh: Callable[[], Awaitable[None]]) -> None:
    with ui.expansion().classes("item") as item:
        with item.add_slot("header"), ui.row().classes("head"):
            ui.label(entry.name).classes("name")
            ui.badge(entry.method.replace("_", " ")).props("outline color=primary")
            ui.badge(f"licence: {entry.licence}").props(f"color={COLOURS.get(entry.licence, 'grey-8')}")
            if not entry.names:
                ui.badge("not served").props("outline color=grey-8")
            for word, value in list(figures(entry.metrics).items())[:HEADLINE]:
                ui.label(f"{word} {value}").classes("figure")
        with ui.column().classes("inside"):
            pairs(_facts(entry))
            if entry.lineage is not None:
                ui.label("Made from").classes("subtitle")
                _branch(entry.lineage, entry.titles)
            with ui.row():
                _buttons(visit, entry, refresh)


def pairs(facts: dict[str, str]) -> None:
    """Words and what they stand for, in two columns."""
    with ui.element("dl").classes("pairs"):
        for word, value in facts.items():
            with ui.element("dt"):
                ui.label(word)
            with ui.element("dd"):
                ui.label(value).classes("said")


def _facts(entry: Entry) -> dict[str, str]:
    facts = {"answers to": ", ".join(entry.names) or "nobody: it is kept, but not served"}
    if entry.created:
        facts["made"] = datetime.fromisoformat(entry.created).strftime("%Y-%m-%d %H:%M UTC")
    if entry.reasons:
        facts["licence"] = f"{entry.licence}: " + titled("; ".join(entry.reasons), entry.titles)
    return facts | dict(list(figures(entry.metrics).items())[:FIGURES])


def figures(metrics: dict[str, Any]) -> dict[str, str]:
    """What was measured of a model, in words, what was measured on test rows first.

    Counts of rows and steps are no figures of quality, so they are left out.
    """
    found = {
        name: value for name, value in metrics.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
        and not name.endswith(("_rows", "_tokens", "step", "steps"))
    }  # fmt: skip
    ordered = sorted(found, key=lambda name: 0 if name.startswith("test_") else 1)
    return {name.replace("_", " "): f"{found[name]:.4g}" for name in ordered}


def _branch(node: Node, titles: Mapping[str, str]) -> None:
    """A part of the lineage and, indented below it, what it was made from."""
    with ui.element("ul").classes("tree"), ui.element("li"):
        said = f" by {node.method.replace('_', ' ')}" if node.method else ""
        under = f", under {node.licence}" if node.licence else ""
        digest = f" ({node.digest[:12]})" if node.digest else ""
        name = titled(node.name, titles)
        ui.label(f"{node.kind} {name}{said}{under}{digest}").classes("said")
        for child in node.children:
            _branch(child, titles)


def titles(visit: Visit) -> dict[str, str]:
    """Read what the visitor's files are called, by the names they are stored under."""
    found = visit.service.store.files.list(limit=1000, owner=visit.owner()).items
    return {f.stored: f.name for f in found}


def titled(text: str, titles: Mapping[str, str]) -> str:
    """A text with files called what their owners call them."""
    for stored, title in titles.items():
        text = text.replace(stored, title)
    return text


def _buttons(visit: Visit, entry: Entry, refresh: Callable[[], Awaitable[None]]) -> None:
    async def serve() -> None:
        async with told():
            await visit.read("train", lambda: visit.service.catalogue.serve_kept(entry.name))
            ui.notify(f"{entry.name} is served now")
            await refresh()

    def served() -> list[str]:
        """The names that still are this model's: a newer one of the same suffix takes that over."""
        catalogue = visit.service.catalogue
        names = [n for n in entry.names if catalogue.stored_name(n) == entry.name]
        if not names:
            raise ConfigError(f"{entry.name} is not served any more: open Models again")
        return sorted(names, key=len)

    async def delete() -> None:
        async with told(remove):
            if not await sure(f"Delete {entry.name}? Its folder goes with it.", "Delete"):
                return
            await visit.api.delete(f"/v1/models/{served()[0]}")
        await refresh()

    async def chat() -> None:
        async with told():
            visit.chosen["Chat"] = served()[0]
            visit.show("Chat")

    if entry.names:
        ui.button("Chat", icon="forum", on_click=chat).props("flat")
    else:
        ui.button("Serve", icon="play_arrow", on_click=serve).props("flat")
    if entry.names and entry.method != "base":
        remove = ui.button("Delete", icon="delete", on_click=delete).props("flat color=negative")


async def sure(question: str, yes: str) -> bool:
    """Ask before something that cannot be undone."""
    with ui.dialog() as dialog, ui.card():
        ui.label(question)
        with ui.row().classes("right"):
            ui.button("Keep it", on_click=lambda: dialog.submit(False)).props("flat autofocus")
            ui.button(yes, on_click=lambda: dialog.submit(True)).props("color=negative")
    answer = await dialog
    dialog.delete()
    return bool(answer)
