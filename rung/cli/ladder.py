"""The live table of a climb: rows as rungs are tried, a line of what happens now below them.

Where there is no terminal, a plain line when a rung ends.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from rung.data.labels import listed
from rung.ladder.observer import ClimbObserver

if TYPE_CHECKING:
    from rung.ladder.scorecard import Row
    from rung.ladder.task_context import TaskContext
    from rung.store.climbs import ClimbRecord, RungRecord
    from rung.train.observers import Step, Stop, Validation
    from rung.types import Example

LOG_SECONDS = 30.0
GAP = 2  # between columns
REASONS = 3  # that are told at once; more are left to the table
NOTE = 13  # letters of the note that are always shown


class Ladder(ClimbObserver):
    """Reports to stderr, so that stdout stays free for results.

    Attributes:
        validation: the rows that rungs are selected by, once they are read.
    """

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        self._live: Live | None = None
        self._rows: list[RungRecord] = []
        self._climb: ClimbRecord | None = None
        self._stage = "starting"
        self._said = ""
        self._told: dict[str, str] = {}
        self._at = 0.0
        self._steps = 0
        self.validation: tuple[Example, ...] | None = None

    def __enter__(self) -> Ladder:
        if self.console.is_terminal:
            self._live = Live(console=self.console, get_renderable=self._shown, refresh_per_second=4)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._stage = ""
            self._live.stop()
            self._live = None

    # --- what a climb tells -----------------------------------------------------------------------

    def opened(self, bench: TaskContext, climb: ClimbRecord, warnings: Sequence[str]) -> None:
        self._climb, self.validation = climb, bench.validation
        splits = bench.splits
        parts = f"{len(splits.train):,} train, {len(splits.validation):,} validation, "
        self.say("climb", climb.id)
        self.say("task", _task(bench))
        self.say("data", f"{bench.data.name}: {parts}{len(bench.test):,} test rows")
        self.say("budget", f"{bench.knobs.budget}, for {bench.knobs.requests:,} requests"
                 + (f"; bar {bench.bar}" if bench.bar else ""))  # fmt: skip
        for warning in warnings:
            self.note(warning)

    def table(self, records: Sequence[RungRecord]) -> None:
        self._rows = sorted(records, key=lambda r: (r.place, r.key))
        if self._live is None:
            self._lines()

    def stage(self, text: str) -> None:
        self._stage, self._said = text, ""

    def begin(self, steps: int, at: int) -> None:
        self._steps = steps

    def step(self, event: Step) -> None:
        self._said = f"step {event.step} of {self._steps}, loss {event.metrics['loss']:.3f}"
        if self._live is None and time.monotonic() - self._at > LOG_SECONDS:
            self._at = time.monotonic()
            self.say("", f"{self._stage}: {self._said}")

    def validated(self, event: Validation) -> Stop | None:
        self._said = f"step {event.step}, validation {event.best} {event.value:.3f}"
        return None

    def note(self, text: str) -> None:
        self.console.print(Text(text, style="yellow"), soft_wrap=True)

    def say(self, head: str, text: str) -> None:
        line = Text(f"{head:>10}  ", style="bold cyan").append(text, style="not bold default")
        self.console.print(line, soft_wrap=True)

    # --- how it looks ---------------------------------------------------------------------------

    def _lines(self) -> None:
        from rung.ladder.scorecard import cells, reasons

        assert self._climb is not None
        misfits = []
        for row in self._as_rows():
            if row.status == "queued" and row.key not in self._told:
                continue
            told = "  ".join(c for c in cells(row) if c)
            if row.status not in ("queued", "running") and self._told.get(row.key) != told:
                # What was never begun has no figures: one line for those of one reason.
                if row.status == "cancelled" and row.key not in self._told:
                    misfits.append(row)
                else:
                    self.say("rung", told)
            self._told[row.key] = told
        lines = reasons(misfits)
        if len(lines) > REASONS:
            lines = [f"{', '.join(r.key for r in misfits)} skipped: the table at the end says why each"]
        for line in lines:
            self.say("", line)

    def _as_rows(self) -> list[Row]:
        from rung.ladder.scorecard import rows_of

        assert self._climb is not None
        return rows_of(self._rows, self._climb)

    def _shown(self) -> Group:
        now = Text(f"{self._stage}  ", style="bold cyan").append(self._said, style="not bold default")
        if not self._rows or self._climb is None:
            return Group(now)
        return Group(table(self._as_rows(), self._climb, self.console.width), now)


def _task(bench: TaskContext) -> str:
    labels = bench.task.labels
    named = f" over {len(labels)} labels ({listed(labels)})" if labels else ""
    kind, metric = bench.task.kind.replace("_", " "), bench.task.metric
    return f"{kind}{named}, judged by {metric} ({bench.reason}; --task and --metric say otherwise)"


def table(rows: Sequence[Row], climb: ClimbRecord, width: int) -> Group:
    """The rows as a table for a terminal so wide, and below it why some have no figures."""
    from rung.ladder.scorecard import SPARE, cells, head, reasons

    winner = climb.verdict.get("winner")
    rows = [r for r in rows if not r.untried]
    titles = head(climb.task["metric"], climb.settings["knobs"]["requests"])
    lines = [cells(r, winner, why=False) for r in rows]
    places = _fitting(titles, lines, SPARE, width)
    kept = width - sum(_width(titles, lines, p) for p in places[:-1]) - GAP
    lines = [(*line[:-1], _short(line[-1], max(NOTE, kept))) for line in lines]
    built = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, header_style="bold")
    for place in places:
        numbers = 1 < place < len(titles) - 1
        built.add_column(
            titles[place], justify="right" if numbers else "left", no_wrap=not numbers,
            overflow="fold" if numbers else "ellipsis",
        )  # fmt: skip
    styles = {"running": "bold cyan", "failed": "red", "cancelled": "dim", "queued": "dim"}
    for row, line in zip(rows, lines, strict=True):
        style = "bold green" if row.key == winner else styles.get(row.status, "")
        built.add_row(*(Text(line[place]) for place in places), style=style)
    return Group(built, *(Text(line, style="dim") for line in reasons(rows)))


def _width(titles: Sequence[str], lines: Sequence[Sequence[str]], place: int) -> int:
    """Letters that a column takes, with the gap behind it; titles are folded between words."""
    return GAP + max(map(len, [*titles[place].split(), *(line[place] for line in lines)]))


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _fitting(
    titles: Sequence[str], lines: Sequence[Sequence[str]], spare: Sequence[int], width: int
) -> list[int]:
    """The columns that there is room for: the least telling are left out first."""

    def taken(place: int) -> int:
        found = _width(titles, lines, place)
        return min(found, NOTE + GAP) if place == len(titles) - 1 else found

    places = list(range(len(titles)))
    for one in spare:
        if sum(map(taken, places)) > width:
            places.remove(one)
    return places
