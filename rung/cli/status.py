"""`rung status`: what runs now, by whom, where and how far it is; and how to end it."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from rung.cli.models import _table, _when


def status(
    cancel: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="End a training, a climb or a server of this list."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON instead of a table.")] = False,
) -> None:
    """List the trainings, climbs and servers that run now, on every host that shares the store."""
    from rung.library.status import cancel as end
    from rung.library.status import under_way
    from rung.store import Store

    with Store.open() as store:
        if cancel is not None:
            typer.echo(end(store, cancel))
            return
        works = under_way(store)
    if as_json:
        typer.echo(json.dumps([w.as_dict() for w in works], indent=2, ensure_ascii=False))
        return
    if not works:
        typer.echo("nothing runs now", err=True)
        if sys.stdout.isatty():
            return
    head = ("kind", "name", "what", "who", "where", "since", "progress", "logs")
    rows = [
        [w.kind, w.name, w.what, w.user, f"{w.host}:{w.pid}", _when(w.started),
         w.progress + (" (silent)" if w.silent else ""), w.logs]
        for w in works
    ]  # fmt: skip
    _table(head, rows)
