"""`rung redteam`: attack one's own model, report what got through, and mend it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rung.cli.flags import Given, panels_of, takes_knobs
from rung.config import as_dict, resolve
from rung.library.knobs import LoadKnobs
from rung.redteam.knobs import RedteamKnobs

if TYPE_CHECKING:
    from rung.redteam.run import Finished


@takes_knobs(panels_of([("redteam", RedteamKnobs), ("loading", LoadKnobs)]))
def redteam(
    name: Annotated[str, typer.Argument(help="A model, or a base.")],
    given: Given,
    show: Annotated[
        bool, typer.Option("--show", help="Show prompts and answers of the hits on the terminal.")
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Take the place of a mended model of that name.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write the report as JSON.")] = False,
) -> None:
    """Attack a model with prompts and transformations, and report what got through, with intervals.

    Texts are kept only below --out, and shown only with --show. Ctrl-C leaves a report of what was
    tried; with --out the same command goes on from there.
    """
    knobs, loading = resolve([RedteamKnobs, LoadKnobs], given)
    from rung.cli.progress import Terminal
    from rung.errors import Interrupted
    from rung.redteam.run import Run

    shown: list[Terminal] = []

    def terminal() -> Terminal:
        shown.append(Terminal())
        return shown[-1].__enter__()

    with _counting() as told:
        run = Run(name, knobs, as_dict(loading), told, replace)
        try:
            found = run.work(terminal)
        except Interrupted:
            typer.echo("interrupted in mending; the same command goes on", err=True)
            raise typer.Exit(130) from None
        finally:
            for one in shown:
                one.__exit__()
    if as_json:
        typer.echo(json.dumps(found.as_dict(), ensure_ascii=False))
    else:
        _tell(found)
    if show:
        _show(found)
    if found.interrupted:
        typer.echo("interrupted: this is a part; with --out the same command goes on", err=True)
        raise typer.Exit(130)


@contextmanager
def _counting() -> Iterator[Callable[[int, int], None]]:
    """Count conversations on stderr, where that is a terminal."""
    live = sys.stderr.isatty()

    def told(done: int, total: int) -> None:
        if live:
            print(f"\r{done} of {total} conversations", end="", file=sys.stderr, flush=True)
            if done == total:
                print(file=sys.stderr)

    yield told


def _tell(found: Finished) -> None:
    """Counts and intervals, no texts."""
    told = found.before.as_dict()
    said = "" if told["complete"] else f" of {told['planned']} planned"
    typer.echo(f"{told['model']}: {told['tried']} conversations{said}, {told['too_long']} too long")
    for judge, rate in told["by_judge"].items():
        typer.echo(f"success by {judge}\t{_rate(rate)}")
    for table in ("category", "transform"):
        for key, rate in told[f"by_{table}"].items():
            typer.echo(f"{table} {key}\t{_rate(rate)}")
    if told["over_refusal"]["n"]:
        typer.echo(f"over-refusal\t{_rate(told['over_refusal'])}")
    for judge, errors in found.judge_errors.items():
        for kind, rate in errors.items():
            typer.echo(f"judge {judge}: {kind.replace('_', ' ')}\t{_rate(rate)}")
    if found.loss:
        typer.echo(f"loss on ordinary replies\t{_loss(found.loss)}")
    if found.after is not None:
        typer.echo(f"mended as {found.after.model} on {found.pairs} pairs; before -> after")
        for group, change in found.changes.items():
            if change is not None and change["after"]["n"]:
                typer.echo(f"{group.replace('_', '-')}\t{_change(change)}")


def _rate(rate: dict[str, Any]) -> str:
    if not rate["n"]:
        return "none"
    return f"{rate['rate']:.1%} [{rate['low']:.1%}, {rate['high']:.1%}] {rate['hits']}/{rate['n']}"


def _change(change: dict[str, Any]) -> str:
    said = f"{_rate(change['before'])} -> {_rate(change['after'])}"
    if "change" not in change:
        return said
    by = change["change"]
    return f"{said}, by {by['value']:+.1%} [{by['low']:+.1%}, {by['high']:+.1%}]"


def _loss(loss: dict[str, Any]) -> str:
    if "after" not in loss:
        return f"{loss['before']:.3f} per token, {loss['rows']} rows"
    low, high = loss["change"]
    return f"{loss['before']:.3f} -> {loss['after']:.3f} per token [{low:+.3f}, {high:+.3f}]"


def _show(found: Finished) -> None:
    for hit in found.hits:
        typer.echo(f"\n{hit['probe']}")
        for turn in hit["prompt"]["turns"]:
            typer.echo(f"{turn['role']}: {turn['content']['text']}")
        typer.echo(f"answer: {hit['output']['text']}")
