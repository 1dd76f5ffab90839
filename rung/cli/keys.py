"""`rung keys`: who may ask a server, and how much."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

from rung.errors import ConfigError, nearest

ACTIONS = ("add", "list", "revoke", "forget")
NAMELESS = ("list", "forget")
HEAD = ("id", "name", "scopes", "requests/min", "tokens/min", "quota", "used", "last used")


def keys(
    action: Annotated[
        str,
        typer.Argument(
            help="add, list, revoke, or forget what was revoked.", metavar="add|list|revoke|forget"
        ),
    ],
    name: Annotated[
        str | None, typer.Argument(help="Of the key: what to call it, or which to revoke.")
    ] = None,
    scope: Annotated[
        list[str] | None,
        typer.Option(help="What the key opens: ask, train, trace, metrics, admin; all by default."),
    ] = None,
    requests_per_minute: Annotated[
        int | None, typer.Option(min=1, help="Requests that the key may make in a minute.")
    ] = None,
    tokens_per_minute: Annotated[
        int | None, typer.Option(min=1, help="Tokens that the key may use in a minute.")
    ] = None,
    quota: Annotated[
        int | None, typer.Option(min=1, help="Tokens that the key may use in all.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON.")] = False,
) -> None:
    """Add, list and revoke the keys of a server.

    A key is shown once, when it is added; the store keeps its SHA-256. Servers that run take note
    within seconds. As soon as there is one key, every request but /health needs one, also once all are
    revoked: forget them to let everybody in again.
    """
    from rung.data.problem import counted
    from rung.store import Store
    from rung.store.serving import SCOPES

    if action not in ACTIONS:
        raise ConfigError(f"'{action}' is nothing that can be done to keys{nearest(action, ACTIONS)}")
    if (action in NAMELESS) != (name is None):
        told = "takes no name" if action in NAMELESS else "needs a name"
        raise ConfigError(f"rung keys {action} {told}")
    with Store.open() as store:
        if action == "list":
            _list([key.as_dict() for key in store.keys.list()], as_json)
        elif action == "forget":
            count = store.keys.forget_revoked()
            typer.echo(
                json.dumps({"forgotten": count}) if as_json else f"forgot {counted(count, 'key')}"
            )
        elif action == "revoke":
            gone = store.keys.revoke(str(name))
            typer.echo(json.dumps({"revoked": gone.id}) if as_json else f"revoked {gone.name}")
        else:
            record, secret = store.keys.add(
                str(name), scopes=scope or SCOPES, requests_per_minute=requests_per_minute,
                tokens_per_minute=tokens_per_minute, quota=quota,
            )  # fmt: skip
            shown = {"id": record.id, "name": record.name, "scopes": record.scopes, "key": secret}
            typer.echo(json.dumps(shown) if as_json else secret)
            if sys.stderr.isatty() and not as_json:
                typer.echo("keep it: it is not shown again", err=True)


def _list(found: list[dict[str, Any]], as_json: bool) -> None:
    rows = [{k: v for k, v in key.items() if k not in ("digest", "revoked")} for key in found]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    from rung.cli.models import _table

    names = ("id", "name", "scopes", "requests_per_minute", "tokens_per_minute", "quota", "used")
    cells = [
        [*("" if row[n] is None else str(row[n]) for n in names), (row["last_used"] or "")[:16]]
        for row in rows
    ]
    _table(HEAD, cells)
