"""`rung add`: an adapter that somebody else made, under a name of one's own."""

from __future__ import annotations

from typing import Annotated

import typer


def add(
    name: Annotated[str, typer.Argument(help="What to call it here.")],
    source: Annotated[
        str, typer.Argument(help="A folder that PEFT, Trainer or TRL wrote, or org/name on the Hub.")
    ],
    base: Annotated[
        str | None, typer.Option(help="What it stands on; by default what its settings name.")
    ] = None,
    replace: Annotated[bool, typer.Option(help="Take the place of a model of that name.")] = False,
) -> None:
    """Add an adapter that was made with PEFT, proven to answer as it does there."""
    from rung.library.adding import add as work

    added = work(name, source, base, replace)
    proven = (
        "not proven, since PEFT is not installed"
        if added.difference is None
        else f"logits within {added.difference:.1e} of PEFT's"
    )
    typer.echo(f"{name}: {added.model.method} on {added.model.base[:12]}, {proven}")
