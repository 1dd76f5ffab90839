"""`rung eval`: any models on the same items, with intervals and a paired comparison."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rung.cli.chat import Device, Dtype
from rung.cli.flags import Given, panels_of, takes_knobs
from rung.config import resolve
from rung.data.knobs import DataKnobs
from rung.errors import ConfigError, DataError, one_line

if TYPE_CHECKING:
    from rung.data import Dataset
    from rung.evals.compare import Comparison
    from rung.evals.judge import Judge
    from rung.evals.measure import Measured
    from rung.evals.predict import Answers
    from rung.types import BaseInfo, Example, Task

PARTS = ("test", "validation", "train", "all")
FEW = 30  # items, below which an interval says little


@dataclass
class Row:
    """What one model gave."""

    name: str
    base: BaseInfo
    bare: bool
    answers: Answers
    measured: Measured


@takes_knobs(panels_of([("data", DataKnobs)]))
def eval_(
    names: Annotated[list[str], typer.Argument(help="Models, or bases.")],
    given: Given,
    metric: Annotated[
        str | None, typer.Option(help="What counts; found from the data by default.")
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="The kind of task; found from the data by default.")
    ] = None,
    part: Annotated[str, typer.Option(help="test, validation, train or all rows.")] = "test",
    items: Annotated[int | None, typer.Option(help="Ask at most so many of them.")] = None,
    judge: Annotated[
        str | None,
        typer.Option(metavar="URL", help="An OpenAI-compatible address that judges pairs of answers."),
    ] = None,
    judge_model: Annotated[str, typer.Option(help="The judging model's name.")] = "judge",
    dtype: Dtype = "float32",
    device: Device = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Write the result as JSON.")] = False,
) -> None:
    """Measure models on the same items and compare each with the first, item by item.

    Models of different bases are measured base by base. Every figure is kept in the store.
    """
    if part not in PARTS:
        raise ConfigError(f"--part is '{part}', must be one of {', '.join(PARTS)}")
    if items is not None and items < 1:
        raise ConfigError(f"--items is {items}, must be at least 1")
    arbiter = _judge(judge, judge_model) if judge else None
    dataset, asked, chosen = _read(resolve([DataKnobs], given)[0], task, metric, part, items)
    _say(f"task: {_told(chosen)}; {len(asked)} items of {dataset.name} ({part})")
    if len(asked) < FEW:
        _say(f"{len(asked)} items show little: see the intervals")
    rows = _ask(names, asked, chosen, dataset, dtype, device)
    found = _compare(rows)
    verdicts = _verdicts(rows, asked, arbiter) if arbiter else []
    if as_json:
        typer.echo(json.dumps(_plain(rows, found, verdicts, chosen, part), ensure_ascii=False))
    else:
        _show(rows, found, verdicts)


def _read(
    knobs: DataKnobs, kind: str | None, metric: str | None, part: str, items: int | None
) -> tuple[Dataset, list[Example], Task]:
    """The items, the same ones every time, and their task."""
    from rung.data import load, split
    from rung.evals import tasks

    dataset = load(knobs)
    splits = dict(split(dataset, knobs))
    every = [e for rows in splits.values() for e in rows]
    task = tasks.settle_task(tasks.detect(every), every, kind, metric)
    found = tasks.faults(every, task)
    if found:
        raise DataError(one_line(found))
    asked = every if part == "all" else list(splits[part])
    if not asked:
        raise DataError(f"the {part} part has no rows: give more rows, or another --part")
    return dataset, asked[:items], task


def _told(task: Task) -> str:
    labels = f" ({', '.join(task.labels[:6])}{', ...' if len(task.labels) > 6 else ''})"
    return f"{task.kind}{labels if task.labels else ''}, metric {task.metric}"


def _ask(
    names: list[str], asked: list[Example], task: Task, dataset: Dataset, dtype: str, device: str
) -> list[Row]:
    """Every model's answers, base by base; what is measured is kept at once."""
    from rung.evals.measure import measure
    from rung.evals.predict import predict
    from rung.models import by_base, load

    found = {}
    for group in by_base(names):
        with _status(f"loading the base of {', '.join(group)}"):
            loaded = load(group, dtype=dtype, device=device)
        for name in group:
            model = loaded.engine.model(name)
            with _bar(name, len(asked)) as progress:
                answers = predict(loaded.engine.bank, model, asked, task, progress=progress)
            row = Row(name, loaded.base, model.slot == -1, answers, measure(answers, asked, task))
            _keep(row, dataset)
            found[name] = row
        del loaded
    return [found[name] for name in dict.fromkeys(names)]


def _keep(row: Row, dataset: Dataset) -> None:
    """Write a row into the store. What measures nothing (an overflow) is not kept."""
    from math import isfinite

    from rung.store import Store
    from rung.train.keeping import data_record

    m = row.measured
    if not isfinite(m.value):
        return
    subject: dict[str, Any] = {"base": row.base} if row.bare else {"model": row.name}
    with Store.open() as store:
        store.evaluations.add(
            metric=m.metric, value=m.value, low=m.low, high=m.high, n=m.n,
            dataset=data_record(dataset), **subject,
        )  # fmt: skip


def _compare(rows: list[Row]) -> list[Comparison]:
    from rung.evals.compare import compare

    return [compare(rows[0].measured, row.measured) for row in rows[1:]]


def _judge(address: str, model: str) -> Judge:
    from rung.evals.judge import Judge

    return Judge.at(address, model, os.environ.get("RUNG_JUDGE_KEY"))


def _verdicts(rows: list[Row], asked: list[Example], judge: Judge) -> list[dict[str, Any]]:
    """How often each model's answers beat the first's, or, of one model alone, the references."""
    import numpy as np

    from rung.evals.intervals import bootstrap, percentile
    from rung.evals.metric import mean
    from rung.evals.tasks import question, reply

    asked_of = [question(e) for e in asked]
    if len(rows) == 1:
        pairs = [
            (rows[0].name, rows[0].answers.texts, "the references", [reply(e) or "" for e in asked])
        ]
    else:
        first = rows[0]
        pairs = [(r.name, r.answers.texts, first.name, first.answers.texts) for r in rows[1:]]
    found = []
    for name, texts, against, others in pairs:
        with _bar(f"judging {name}", len(asked)) as progress:
            wins = judge.compare(asked_of, texts, others, progress)
        statistics = np.array([[w, 1.0] for w in wins])
        low, high = percentile(bootstrap(statistics, mean))
        value = float(np.mean(wins))
        found.append({"model": name, "against": against, "value": value, "low": low, "high": high})
    return found


# --- what is shown ------------------------------------------------------------------------------


def _plain(
    rows: list[Row], found: list[Comparison], verdicts: list[dict[str, Any]], task: Task, part: str
) -> dict[str, Any]:
    models = []
    for row in rows:
        a = row.answers
        models.append({
            "name": row.name, "base": row.base.name, **row.measured.as_dict(),
            "items": row.measured.items.tolist(), "seconds": a.seconds,
            "prompt_tokens": a.prompt_tokens, "completion_tokens": a.completion_tokens,
        })  # fmt: skip
    compared = [
        {"model": row.name, "against": rows[0].name, **asdict(c)}
        for row, c in zip(rows[1:], found, strict=True)
    ]
    return {
        "task": asdict(task), "part": part, "models": models, "comparisons": compared,
        "judge": verdicts,
    }  # fmt: skip


def _show(rows: list[Row], found: list[Comparison], verdicts: list[dict[str, Any]]) -> None:
    """A table on the terminal, tabs for pipes."""
    metric = rows[0].measured.metric
    more = list(rows[0].measured.more)
    heads = ["model", metric, "95% interval", *more, "s/item", f"against {rows[0].name}"]
    lines = []
    for row, said in zip(rows, ["", *(c.says for c in found)], strict=True):
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
    for v in verdicts:
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
def _status(text: str) -> Iterator[None]:
    from rich.console import Console

    with Console(stderr=True).status(text):
        yield


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
