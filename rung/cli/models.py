"""`rung models`, `rung show`, `rung runs`, `rung remove`: what there is, and where it comes from.

On a terminal these draw tables and a tree; into a pipe they write tab-separated lines and plain
text without colour or frames; with `--json` one JSON value.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rung.errors import ConfigError

if TYPE_CHECKING:
    from rung.store import Store
    from rung.store.records import EvaluationRecord, ModelRecord, Node, RunRecord

# Which rows a figure is of, those that say most first; a base's own figure stands beside its model's.
_PARTS = ("test_", "validation_", "held_out_", "")

AsJson = Annotated[bool, typer.Option("--json", help="Write JSON instead of a table.")]


def models(as_json: AsJson = False) -> None:
    """List the models in the store."""
    from rung.store import Store

    with Store.open() as store:
        found = store.models.list()
        bases = {base.digest: base.name for base in store.bases.list()}
    if as_json:
        _json([model.as_dict() for model in found])
        return
    if not found:
        typer.echo("no models yet: make one with rung tune", err=True)
        if sys.stdout.isatty():
            return
    head = ("name", "method", "base", "licence", "quality", "created")
    _table(head, [_model_row(model, bases) for model in found])


def show(
    name: Annotated[str, typer.Argument(help="The model's name.")],
    as_json: AsJson = False,
) -> None:
    """Show one model: what it was made from, the licence class that results, quality and cost."""
    from rung.store import Store

    with Store.open() as store:
        model = store.models.get(name)
        lineage = store.lineage(name)
        evaluations = store.evaluations.list(model=name)
        licence_class, reasons = store.licence(name)
        data = {digest: store.datasets.get(digest).name for digest in _measured_on(evaluations)}
    if as_json:
        licence = {"class": licence_class, "reasons": list(reasons)}
        _json(
            {
                "model": model.as_dict(),
                "lineage": lineage.as_dict(),
                "licence": licence,
                "evaluations": [evaluation.as_dict() for evaluation in evaluations],
            }
        )
        return
    _facts(_card_facts(model))
    _section("lineage")
    _tree(lineage)
    _section(f"licence class: {licence_class}")
    for reason in reasons:
        typer.echo(f"  {reason}")
    _measures(model, evaluations, data)
    _curves(model)


def runs(
    status: Annotated[
        str | None,
        typer.Option(help="Only runs with this status, such as running or failed."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Only runs that make this model.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many runs, newest first.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List runs, newest first."""
    from rung.errors import nearest
    from rung.store import Store
    from rung.store.records import STATUSES

    wanted = next((known for known in STATUSES if known == status), None)
    if status is not None and wanted is None:
        raise ConfigError(f"--status is '{status}'{nearest(status, STATUSES)}")
    with Store.open() as store:
        found = store.runs.list(status=wanted, model=model, limit=limit)
    if as_json:
        _json([run.as_dict() for run in found])
        return
    if not found:
        typer.echo("no such runs" if status or model else "no runs yet", err=True)
        if sys.stdout.isatty():
            return
    head = ("id", "model", "method", "objective", "status", "started", "seconds", "error")
    _table(head, [_run_row(run) for run in found])


def remove(
    name: Annotated[str, typer.Argument(help="The model's name.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove a model: its record, its evaluations and its folder."""
    from rung.store import Store

    with Store.open() as store:
        model = store.models.get(name)
        if not yes:
            if as_json or not sys.stdin.isatty():
                raise ConfigError(f"removing '{name}' cannot be undone: add --yes to do it unasked")
            typer.confirm(f"Remove '{name}' and its folder {model.folder}?", abort=True)
        kept = _remove(store, model)
    if as_json:
        _json({"removed": name, "kept": kept})
        return
    typer.echo(f"removed {name}")
    if kept:
        typer.echo(f"left {kept} as it is, since Rung did not make it", err=True)


def _remove(store: Store, model: ModelRecord) -> str | None:
    """Delete the model. Returns a folder that is not Rung's to delete."""
    from rung.artefacts import folders

    store.models.delete(model.name)
    own = folders.model_folder(model.name)
    elsewhere = Path(model.folder) if model.folder else own
    return str(elsewhere) if elsewhere != own and elsewhere.exists() else None


def _model_row(model: ModelRecord, bases: dict[str, str]) -> list[str]:
    from rung.artefacts.cards import shown

    key = _quality(model.metrics)
    quality = f"{key} {shown(key, model.metrics[key])}" if key else ""
    if f"{key}_of_base" in model.metrics:
        quality += f" (base {shown(f'{key}_of_base', model.metrics[f'{key}_of_base'])})"
    base = bases.get(model.base, model.base[:12])
    return [model.name, model.method, base, model.licence_class, quality, _when(model.created)]


def _quality(found: Mapping[str, Any]) -> str | None:
    """The figure that says most of a model: of a metric, not a setting that its method chose."""
    from rung.evals import metrics

    named = {
        f"{part}{metric}": at for at, part in enumerate(_PARTS) for metric in ("loss", *metrics.names())
    }
    measured = [key for key in found if key in named and found[key] is not None]
    return min(measured, key=lambda key: (named[key], key.endswith("loss")), default=None)


def _run_row(run: RunRecord) -> list[str]:
    seconds = run.cost.get("seconds")
    spent = f"{seconds:.1f}" if isinstance(seconds, (int, float)) else ""
    when = _when(run.started)
    return [
        run.id,
        run.model,
        run.method,
        run.objective,
        run.status,
        when,
        spent,
        run.error or "",
    ]


def _card_facts(model: ModelRecord) -> list[tuple[str, str]]:
    from rung.artefacts import cards

    facts = [
        ("model", model.name),
        ("method", model.method),
        ("created", _when(model.created)),
        ("run", model.run or ""),
        ("folder", model.folder),
    ]
    if model.folder and Path(model.folder).is_dir():
        card = cards.read_card(model.folder)
        keys = ("base_model", "base_model_relation", "license", "pipeline_tag")
        facts += [(key.replace("_", " "), cards.shown(key, card.get(key))) for key in keys]
    elif model.folder:
        facts.append(("warning", "the folder is gone: train again, or run rung remove"))
    return [(key, value) for key, value in facts if value]


def _measures(
    model: ModelRecord, evaluations: Sequence[EvaluationRecord], data: dict[str, str]
) -> None:
    from rung.artefacts.cards import shown

    told = {e.metric for e in evaluations}
    rows = [[k, shown(k, value), ""] for k, value in model.metrics.items() if k not in told]
    for e in evaluations:
        value = {"value": e.value, "low": e.low, "high": e.high, "n": e.n}
        rows.append([e.metric, shown(e.metric, value), data.get(e.dataset or "", "")])
    if rows:
        _section("metrics")
        _table(("metric", "value", "data"), rows)
    if model.cost:
        _section("cost")
        _table(("what", "amount"), [[key, shown(key, value)] for key, value in model.cost.items()])


def _curves(model: ModelRecord) -> None:
    """The loss of the run that made the model, on a terminal; `log.jsonl` has it for programs."""
    if model.run is None or not sys.stdout.isatty():
        return
    from rung.cli import plot

    lines = plot.draw(plot.loss_of(model.run), shutil.get_terminal_size().columns)
    if lines:
        _section("loss")
        for line in lines:
            typer.echo(line)


def _measured_on(evaluations: Iterable[EvaluationRecord]) -> set[str]:
    return {e.dataset for e in evaluations if e.dataset}


def _when(moment: str) -> str:
    """A stored moment to the minute, in UTC."""
    return moment[:16].replace("T", " ")


def _json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def _section(title: str) -> None:
    typer.echo(f"\n{title}")


def _facts(facts: Iterable[tuple[str, str]]) -> None:
    for key, value in facts:
        typer.echo(f"{key}: {value}")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Aligned on a terminal; tab-separated into a pipe, so that cut and awk can read it."""
    if not sys.stdout.isatty():
        for line in (head, *rows):
            typer.echo("\t".join(" ".join(cell.split()) for cell in line))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for place, title in enumerate(head):
        # What a line is known by must be whole, to be copied; the rest may wrap.
        table.add_column(title, no_wrap=place == 0, overflow="fold", min_width=_longest(rows, place))
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # Text: a name in [brackets] is no markup
    Console().print(table)


def _longest(rows: Sequence[Sequence[str]], place: int) -> int | None:
    return max((len(row[0]) for row in rows), default=0) if place == 0 else None


def _tree(root: Node) -> None:
    if not sys.stdout.isatty():
        typer.echo(_label(root))
        _branches(root, "")
        return
    from rich.console import Console
    from rich.text import Text
    from rich.tree import Tree

    def grow(node: Node, tree: Tree) -> Tree:
        for child in node.children:
            grow(child, tree.add(Text(_label(child))))
        return tree

    Console().print(grow(root, Tree(Text(_label(root), style="bold"))))


def _branches(node: Node, indent: str) -> None:
    for place, child in enumerate(node.children):
        last = place == len(node.children) - 1
        typer.echo(f"{indent}{'`-- ' if last else '|-- '}{_label(child)}")
        _branches(child, indent + ("    " if last else "|   "))


def _label(node: Node) -> str:
    method = f" by {node.method}" if node.method else ""
    stated = node.licence or ("" if node.kind == "model" else "unknown")
    terms = f"{stated}, {node.licence_class}" if stated != node.licence_class else stated
    digest = f" {node.digest[:12]}" if node.digest else ""
    return f"{node.kind} {node.name}{method} ({terms.removeprefix(', ')}){digest}"
