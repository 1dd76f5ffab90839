"""`rung eval`: any models on the same items, with intervals and a paired comparison."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from rung.cli.flags import Given, panels_of, takes_knobs
from rung.config import resolve
from rung.data.knobs import DataKnobs
from rung.data.labels import listed
from rung.library.knobs import EvalKnobs, LoadKnobs

if TYPE_CHECKING:
    from rung.data import Dataset
    from rung.library.evaluation import Evaluation, Progress
    from rung.types import Example, Task

FEW_ITEMS = 30  # items, below which an interval says little


@takes_knobs(panels_of([("evaluation", EvalKnobs), ("loading", LoadKnobs), ("data", DataKnobs)]))
def eval_(
    names: Annotated[list[str], typer.Argument(help="Models, or bases.")],
    given: Given,
    as_json: Annotated[bool, typer.Option("--json", help="Write the result as JSON.")] = False,
) -> None:
    """Measure models on the same items and compare each with the first, item by item.

    Without --data the items are what was held out of the data that the first model was trained on.
    Models of different bases are measured base by base. Every figure is kept in the store.
    """
    classes = [EvalKnobs, LoadKnobs, DataKnobs]
    knobs, loading, data = resolve(classes, given)
    from rung.library.evaluation import evaluate
    from rung.library.own_data import own_run, settings_of

    run = None if data.data else own_run(names)
    if run is not None:
        knobs, loading, data = resolve(classes, settings_of(run), given)

    found = evaluate(names, data, knobs, loading, _progress(knobs.part), run)
    if as_json:
        typer.echo(json.dumps(found.as_dict(), ensure_ascii=False))
    else:
        _show(found)


def _progress(part: str) -> Progress:
    """Shows on stderr what is being done."""
    from rung.library.evaluation import Progress

    class Shown(Progress):
        @contextmanager
        def loading(self, names: Sequence[str]) -> Iterator[None]:
            from rich.console import Console

            with Console(stderr=True).status(f"loading the base of {', '.join(names)}"):
                yield

        @contextmanager
        def counting(self, what: str, total: int) -> Iterator[Callable[[int, int], None]]:
            with _bar(what, total) as told:
                yield told

        def begun(self, task: Task, items: Sequence[Example], dataset: Dataset) -> None:
            _say(f"task: {_told(task)}; {len(items)} items of {dataset.name} ({part})")
            if len(items) < FEW_ITEMS:
                _say(f"{len(items)} items show little: see the intervals")

        def note(self, text: str) -> None:
            _say(text)

    return Shown()


def _told(task: Task) -> str:
    labels = f" ({listed(task.labels)})"
    return f"{task.kind}{labels if task.labels else ''}, metric {task.metric}"


def _show(found: Evaluation) -> None:
    """Write a table on the terminal, tabs for pipes."""
    rows = found.rows
    metric = rows[0].measured.metric
    more = list(dict.fromkeys(name for row in rows for name in row.measured.more))
    heads = ["model", metric, "95% interval", *more, "s/item", f"against {rows[0].name}"]
    lines = []
    for row, said in zip(rows, ["", *(c.says for c in found.comparisons)], strict=True):
        m = row.measured
        others = [_figure(m.more[name]) if name in m.more else "" for name in more]
        pace = f"{row.answers.seconds / m.n:.3f}"
        interval = f"{_figure(m.low)} to {_figure(m.high)}"
        lines.append([row.name, _figure(m.value), interval, *others, pace, said])
    if len(rows) == 1:
        heads, lines = heads[:-1], [line[:-1] for line in lines]
    if sys.stdout.isatty():
        _table(heads, lines)
    else:
        for line in (heads, *lines):
            typer.echo("\t".join(line))
    for v in found.verdicts:
        typer.echo(
            f"the judge prefers {v['model']} over {v['against']} in {v['value']:.0%} of the items "
            f"({v['low']:.0%} to {v['high']:.0%})"
        )


def _figure(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def _table(heads: list[str], lines: list[list[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.ROUNDED)
    for i, head in enumerate(heads):
        table.add_column(head, justify="left" if i == 0 or head.startswith("against") else "right")
    for line in lines:
        table.add_row(*(Text(cell) for cell in line))
    Console().print(table)


def _say(text: str) -> None:
    typer.echo(text, err=True)


@contextmanager
def _bar(name: str, total: int) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr; nothing where that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(name, total=total)
        yield lambda done, _: bar.update(task, completed=done)
