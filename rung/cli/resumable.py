"""What can be gone on with, offered where nobody has named it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import typer

from rung.cli.models import _when as when
from rung.errors import ConfigError

SHOWN = 9  # maximum number offered; the newest


@dataclass(frozen=True)
class Resumable:
    """A run or climb that was interrupted: its id, and what a person knows it by."""

    id: str
    told: str


def runs() -> list[Resumable]:
    """Read the runs that were interrupted or killed, the newest first."""
    from rung.store import Store

    with Store.open() as store:
        found = store.runs.list(status="interrupted")
    return [
        Resumable(r.id, f"{r.model}, {r.method.replace('_', ' ')}, begun {when(r.started)}")
        for r in found
    ]


def climbs() -> list[Resumable]:
    """Read the climbs that were interrupted, killed or have failed, the newest first."""
    from rung.store import Store

    with Store.open() as store:
        found = [c for c in store.climbs.list() if c.status in ("interrupted", "failed")]
    return [Resumable(c.id, f"{c.name}, begun {when(c.started)}, {c.status}") for c in found]


def which(offered: Sequence[Resumable], command: str) -> str:
    """Ask which of them is meant, on a terminal; returns its id.

    Args:
        command: what names it without being asked.

    Raises:
        ConfigError: where there is nothing to go on with, or nobody to ask.
    """
    offered = offered[:SHOWN]
    if not offered:
        raise ConfigError("nothing was interrupted: there is nothing to go on with")
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        listed = "; ".join(f"{one.id} ({one.told})" for one in offered)
        raise ConfigError(f"say which: {command}, one of {listed}")
    for number, one in enumerate(offered, 1):
        typer.echo(f"{number}  {one.id}  {one.told}", err=True)
    if len(offered) == 1:
        typer.confirm("Go on with it?", default=True, abort=True, err=True)
        return offered[0].id
    chosen = typer.prompt("Which", default=1, type=int, err=True)
    if not 1 <= chosen <= len(offered):
        raise ConfigError(f"there is no {chosen} in the list: it ends with {len(offered)}")
    return offered[chosen - 1].id
