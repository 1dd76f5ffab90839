"""Rows of a file as a table in which they are edited and removed, and saved as a file of their own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import PurePath
from typing import Any

from nicegui import ui

from rung.data.provenance import COLUMN
from rung.errors import DataError
from rung.server.page import data
from rung.server.page.fields import attribute
from rung.server.page.models import sure
from rung.server.page.session import Visit, told
from rung.store.files import place
from rung.synthesis import editing

SHOWN = 10  # rows of the table at a time
MAX_BYTES = 20_000_000  # of a file that is edited here
EDITED = "-edited"  # ends the name of a file beside the one that it was made from
TITLES = {"user": "prompt", "assistant": "reply", "completion": "reply"}


def read(visit: Visit, file: str) -> list[dict[str, Any]]:
    """Read the rows of a file of the visitor's.

    Raises:
        DataError: for a file that is too large, or holds no JSON lines.
    """
    record = visit.service.store.files.get(file, visit.owner())
    if record.bytes > MAX_BYTES:
        raise DataError(f"{record.name} is too large to be edited here: edit it before you bring it")
    try:
        return editing.read(place(record.stored).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        raise DataError(f"{record.name} cannot be read as text") from None


def title(name: str) -> str:
    """What a text of a row is called on the page."""
    first, _, number = name.partition(" ")
    return f"{TITLES.get(first, first)} {number}".strip().capitalize()


class Rows:
    """The table of one file. What is changed is kept on the page until it is saved.

    Attributes:
        file: id of the file that is shown; None for none.
    """

    def __init__(self, visit: Visit):
        self.visit = visit
        self.file: str | None = None
        self._rows: list[dict[str, Any]] = []
        self._texts: dict[int, dict[str, str]] = {}  # by place of the row
        self._removed: set[int] = set()
        self._first = 0
        self._opened = 0  # number of the last file that was asked for
        self._held = 0  # how many who are about to replace the rows
        with ui.column().classes("wide").props('role=region aria-label="Rows"') as self._all:
            ui.label("Rows").classes("title").props("role=heading aria-level=2")
            self._pick = ui.select({}, label="Rows of").props("outlined dense options-dense")
            self._pick.classes("wide")
            with ui.row().classes("head"):
                self._tune = ui.button("Tune on them", icon="model_training")
                self._climb = ui.button("Climb on them", icon="stairs").props("outline")
            self._table = ui.column().classes("wide")
            with ui.row().classes("head") as self._pager:
                self._back = ui.button("Rows before", icon="chevron_left").props("flat dense")
                self._where = ui.label("").classes("faint").props("role=status")
                self._on = ui.button("Rows after", icon="chevron_right").props("flat dense")
            with ui.row().classes("head buttons"):
                self._save = ui.button("Save", icon="save")
                self._replace = ui.checkbox("Delete the file as it was")
                self._changes = ui.label("").classes("faint").props("role=status")
        self._all.set_visibility(False)
        self._pick.on_value_change(self._picked)
        self._tune.on_click(lambda: self._go("Jobs"))
        self._climb.on_click(lambda: self._go("Climbs"))
        self._back.on_click(lambda: self._turn(-SHOWN))
        self._on.on_click(lambda: self._turn(SHOWN))
        self._save.on_click(self._keep)

    async def renew(self) -> None:
        """Bring the list of files up to date."""
        files = await self.visit.read("train", lambda: data.files(self.visit))
        found = data.options([f for f in files if f.stored.endswith((".jsonl", ".ndjson"))])
        self._all.set_visibility(bool(found))
        if self.file not in found:
            self._forget()
        self._pick.set_options(found, value=self.file)

    async def open(self, file: str) -> None:
        """Show the rows of a file, unless another is asked for meanwhile.

        Raises:
            RungError: where it cannot be read.
        """
        self._opened = mine = self._opened + 1
        with self._untouched():
            rows = await self.visit.read("train", lambda: read(self.visit, file))
            if mine != self._opened:
                return
            self._forget()
            self.file, self._rows = file, rows
            await self.renew()
            self._draw()

    @contextmanager
    def _untouched(self) -> Iterator[None]:
        """Let nobody write into rows that are about to be replaced."""
        self._held += 1
        self._save.disable()
        self._table.props("inert")
        try:
            yield
        finally:
            self._held -= 1
            if not self._held:
                self._table.props(remove="inert")
                self._tell()

    @property
    def changed(self) -> list[int]:
        """The places of rows that were changed and are kept."""
        return [
            n for n, texts in self._texts.items()
            if n not in self._removed and editing.texts_of(self._rows[n]) != texts
        ]  # fmt: skip

    def _forget(self) -> None:
        self.file, self._rows, self._first = None, [], 0
        self._texts, self._removed = {}, set()
        self._draw()

    async def _picked(self) -> None:
        wanted = self._pick.value
        if wanted in (None, self.file):
            return
        async with told():
            if self.dirty and not await sure("Leave without saving the changes?", "Leave"):
                self._pick.set_value(self.file)
                return
            try:
                await self.open(wanted)
            except DataError:
                self._pick.set_value(self.file)
                raise

    def _go(self, part: str) -> None:
        self.visit.chosen[part] = self.file or ""
        self.visit.show(part)

    def _turn(self, by: int) -> None:
        self._first = max(0, min(self._first + by, len(self._rows) - 1))
        self._draw()

    # --- the table ------------------------------------------------------------------------------

    @property
    def dirty(self) -> bool:
        """Whether something is changed that is not saved yet."""
        return bool(self._removed or self.changed)

    def _draw(self) -> None:
        self._table.clear()
        last = min(self._first + SHOWN, len(self._rows))
        shown = range(self._first, last)
        columns = list(dict.fromkeys(n for i in shown for n in editing.texts_of(self._rows[i])))
        with self._table:
            if not self._rows:
                ui.label("Choose a data set to read and edit its rows.").classes("faint")
            else:
                self._heads(columns, shown)
        self._where.text = f"{self._first + 1:,} to {last:,} of {len(self._rows):,}"
        self._pager.set_visibility(len(self._rows) > SHOWN)
        self._back.set_enabled(self._first > 0)
        self._on.set_enabled(last < len(self._rows))
        self._tell()

    def _heads(self, columns: list[str], shown: Iterable[int]) -> None:
        region = 'tabindex=0 role=region aria-label="Table of rows"'
        with (
            ui.element("div").classes("scroll").props(region),
            ui.element("table").classes("card-table rows-table"),
        ):
            with ui.element("thead"), ui.element("tr"):
                for head in ("Row", *map(title, columns), "Written by", ""):
                    with ui.element("th" if head else "td").props("scope=col" if head else ""):
                        ui.label(head)
            with ui.element("tbody"):
                for place_of in shown:
                    self._row(place_of, columns)

    def _row(self, at: int, columns: list[str]) -> None:
        row, number = self._rows[at], at + 1
        own = editing.texts_of(row)
        texts = self._texts.get(at, own)
        with ui.element("tr").classes("gone" if at in self._removed else ""):
            with ui.element("th").props("scope=row"):
                ui.label(f"{number}")
            for name in columns:
                with ui.element("td").classes("text"):
                    if name in own:
                        self._cell(at, name, texts[name])
            with ui.element("td").classes("by"):
                ui.label(_by(row, at in self.changed)).classes("faint said")
            with ui.element("td"):
                self._button(at)

    def _cell(self, at: int, name: str, text: str) -> None:
        label = f"{title(name)} of row {at + 1}"

        def change(event: Any) -> None:
            own = editing.texts_of(self._rows[at])
            self._texts.setdefault(at, dict(own))[name] = event.value or ""
            self._tell()

        shown = title(name) if self.visit.narrow else None  # the table has no heads there
        box = ui.textarea(shown, value=text, on_change=change).props(
            f'outlined dense autogrow rows=1 input-class="cell" aria-label="{attribute(label)}"'
        )
        box.classes("wide")
        if at in self._removed:
            box.disable()

    def _button(self, at: int) -> None:
        gone = at in self._removed
        words = f"Keep row {at + 1}" if gone else f"Remove row {at + 1}"

        def turn() -> None:
            self._removed.symmetric_difference_update({at})
            self._draw()

        ui.button(icon="undo" if gone else "delete", on_click=turn).props(
            f'flat dense round aria-label="{words}"'
        )

    def _tell(self) -> None:
        """Say what is changed; what stands in the file alone can be trained on."""
        counts = {"edited": len(self.changed), "removed": len(self._removed)}
        said = ", ".join(f"{count:,} {word}" for word, count in counts.items() if count)
        self._changes.text = f"{said}: not saved yet" if said else ""
        self._save.set_enabled(bool(said))
        for button in (self._tune, self._climb):
            button.set_enabled(bool(self._rows) and not said)

    # --- saving ---------------------------------------------------------------------------------

    async def _keep(self) -> None:
        async with told():
            with self._untouched():
                await self._write()

    async def _write(self) -> None:
        """Save what is left of the rows as a file, and show that."""
        made = [
            editing.edited(row, self._texts.get(at, {}))
            for at, row in enumerate(self._rows) if at not in self._removed
        ]  # fmt: skip
        if not made:
            raise DataError("no row is left: keep one, or delete the data set under Data")
        visit, old, replace = self.visit, self.file or "", self._replace.value
        record = await visit.read("train", lambda: visit.service.store.files.get(old, visit.owner()))
        stem = PurePath(record.name).stem.removesuffix(EDITED)
        name = record.name if replace else f"{stem}{EDITED}.jsonl"
        saved = await visit.api.post(
            "/v1/files", files={"file": (name, editing.write(made).encode())},
            data={"purpose": "fine-tune"},
        )  # fmt: skip
        await self.open(saved["id"])
        ui.notify(f"Saved {len(made):,} rows as {name}")
        if replace:
            await visit.api.delete(f"/v1/files/{old}")
            await self.renew()


def _by(row: dict[str, Any], changed: bool) -> str:
    """Who wrote a row, as far as it says."""
    about = row.get(COLUMN)
    about = about if isinstance(about, dict) else {}
    said = [str(about[key]) for key in ("teacher", "topic") if about.get(key)]
    if about.get(editing.EDITED) or changed:
        said.append(f"edited {editing.BY_HAND}")
    return "; ".join(said) or "the data set does not say"
