"""`rung map`: which record of theirs is which of ours.

The table of rungs goes to stdout, tab-separated in a pipe; with `--json` one JSON value.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rung.cli.flags import Given, panels_of, takes_knobs
from rung.config import resolve
from rung.library.knobs import LoadKnobs
from rung.mapping.knobs import MapKnobs

if TYPE_CHECKING:
    from rung.library.mapping import Mapped
    from rung.mapping.climb import Tried


@takes_knobs(panels_of([("mapping", MapKnobs), ("reranker", LoadKnobs)]))
def map_(
    left: Annotated[str, typer.Argument(help="Our records: a table with a row for each.")],
    right: Annotated[str, typer.Argument(help="Their records.")],
    given: Given,
    out: Annotated[Path, typer.Option(help="The table of the mapping.", metavar="FILE")] = Path(
        "mapping.csv"
    ),
    review: Annotated[
        Path | None, typer.Option(help="The page to review; beside --out by default.", metavar="FILE")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Keep the mapper as a model, to be served.")] = None,
    base: Annotated[str, typer.Option(help="The base that it is served on.")] = "smollm2-135m",
    rows: Annotated[
        Path | None,
        typer.Option(help="Write questions of the training part, to tune a reranker.", metavar="FILE"),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Take the place of a model of that name.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write the figures as JSON.")] = False,
) -> None:
    """Say which record of one system is which of another: column names, resource types, error codes.

    Tries rungs from the cheapest up, stops at the first that clears the bar, and writes a table with
    confidence and status, and a page to review what is unsure.
    """
    knobs, loading = resolve([MapKnobs, LoadKnobs], given)
    from rung.errors import Interrupted
    from rung.library.mapping import Keeping, map_records, training_rows
    from rung.mapping.review import write_review
    from rung.mapping.table import write_table
    from rung.train.job import stop_signal

    def note(text: str) -> None:
        typer.echo(text, err=True)

    keeping = Keeping(name, base, replace) if name is not None else None
    try:
        with stop_signal() as stopping:
            found = map_records(left, right, knobs, loading, keeping, note, stopping)
    except Interrupted:
        typer.echo("interrupted: nothing was written", err=True)
        raise typer.Exit(130) from None
    write_table(found.rows, out)
    page = review or out.with_suffix(".html")
    reviewed = write_review(found.outcome, found.rows, page)
    if rows is not None:
        text = "".join(
            json.dumps(row, ensure_ascii=False) + "\n" for row in training_rows(found.outcome)
        )
        rows.write_text(text, encoding="utf-8")
    if as_json:
        typer.echo(json.dumps(plain(found), ensure_ascii=False))
    else:
        _tell(found)
    typer.echo(f"table: {out}; review: {page} ({reviewed} unsure)", err=True)
    if found.model is not None:
        typer.echo(f"go on with: rung serve {found.model.name}", err=True)


def plain(found: Mapped) -> dict[str, Any]:
    """Figures for JSON."""
    outcome = found.outcome
    counts = {s: sum(r.status == s for r in found.rows) for s in ("sure", "unsure", "none")}
    return {
        "winner": outcome.winner.name,
        "metric": outcome.metric,
        "cleared": outcome.cleared,
        "counts": counts,
        "threshold": outcome.winner.threshold,
        "rungs": [
            {
                "rung": one.name,
                "reason": one.reason,
                "seconds": one.seconds,
                "validation": one.validation and one.validation.as_dict(),
                "test": one.test and one.test.as_dict(),
            }  # fmt: skip
            for one in outcome.tried
        ],
        "comparisons": {name: c.as_dict() for name, c in outcome.comparisons.items()},
        "model": found.model.name if found.model else None,
    }


def _tell(found: Mapped) -> None:
    outcome = found.outcome
    typer.echo(f"rung\tvalidation {outcome.metric}\ttest {outcome.metric}\tseconds")
    for one in outcome.tried:
        if one.reason:
            typer.echo(f"{one.name}\tnot tried: {one.reason}")
        else:
            cells = (_figure(one, "validation", outcome.metric), _figure(one, "test", outcome.metric))
            typer.echo("\t".join((one.name, *cells, f"{one.seconds:.1f}")))
    counts = ", ".join(f"{count} {status}" for status, count in plain(found)["counts"].items())
    typer.echo(f"{outcome.winner.name}: {counts}")
    test = outcome.winner.test
    if test is None:
        typer.echo("no pairs are known: nothing was measured, and confidences are similarities")
        return
    for metric in ("accuracy", "precision", "recall", "coverage"):
        low, high = test.interval(metric)
        typer.echo(f"test {metric}\t{test.value(metric):.3f} [{low:.3f}, {high:.3f}]\t{test.n} records")
    for name, comparison in outcome.comparisons.items():
        typer.echo(f"{outcome.winner.name} against {name}: {comparison.says}")
    if outcome.cleared is False:
        typer.echo(f"no rung clears the bar; {outcome.winner.name} comes nearest")


def _figure(one: Tried, part: str, metric: str) -> str:
    figures = getattr(one, part)
    if figures is None:
        return "-"
    low, high = figures.interval(metric)
    return f"{figures.value(metric):.3f} [{low:.3f}, {high:.3f}]"
