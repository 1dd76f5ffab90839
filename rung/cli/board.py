"""`rung board`: the leaderboard over all that was measured on a task."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from rung.cli.models import _table, _when

if TYPE_CHECKING:
    from rung.ladder.leaderboard import Entry


def board(
    task: Annotated[
        str | None, typer.Argument(help="A climb's name, or the digest of its data; all by default.")
    ] = None,
    climbs: Annotated[
        bool, typer.Option("--climbs", help="List climbs, to resume one, in place of figures.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON instead of a table.")] = False,
) -> None:
    """Show what every climb and evaluation of a task found, the best first."""
    from rung.store import Store

    with Store.open() as store:
        if climbs:
            found = store.climbs.list()
            _climbs([c.as_dict() for c in found if task in (None, c.name, c.data)], as_json)
            return
        from rung.ladder.leaderboard import entries

        rows = entries(store, task)
    if as_json:
        typer.echo(json.dumps([e.as_dict() for e in rows], indent=2, ensure_ascii=False))
        return
    if not rows:
        typer.echo("nothing was measured yet: begin with rung climb", err=True)
        if sys.stdout.isatty():
            return
    head = ("model", "task", "method", "metric", "value", "rows", "part", "total", "when")
    _table(head, [_cells(e) for e in rows])


def _cells(e: Entry) -> list[str]:
    from rung.ladder.scorecard import duration, interval

    shown = interval({"value": e.value, "low": e.low, "high": e.high})
    return [e.model, e.task, e.method, e.metric, shown, str(e.n), e.part,
            duration(e.total_seconds), _when(e.when)]  # fmt: skip


def _climbs(found: list[dict], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    rows = [
        [c["id"], c["name"], c["status"], c["bar"] or "", c["verdict"].get("winner") or "",
         _when(c["started"])]
        for c in found
    ]  # fmt: skip
    _table(("climb", "task", "status", "bar", "winner", "started"), rows)
