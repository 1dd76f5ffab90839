"""`rung export`: a model as a folder for other tools, proven to answer as it does here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export(
    name: Annotated[str, typer.Argument(help="The model to export.")],
    folder: Annotated[Path, typer.Argument(help="Where to; must not exist or be empty.")],
    to: Annotated[
        str,
        typer.Option(
            help="peft: the adapter as PEFT reads it. merged: the whole model with the adapter built "
            "in, as transformers reads it."
        ),
    ] = "peft",
    dtype: Annotated[str, typer.Option(help="Precision of a merged model.")] = "float32",
) -> None:
    """Write a model for other tools, and prove that it gives the same logits."""
    from rung.exports.export import export as write

    proof = write(name, folder, to, dtype)
    typer.echo(
        f"{folder}: {to}, logits within {proof.difference:.1e} of {name} on {proof.tokens} tokens"
    )
