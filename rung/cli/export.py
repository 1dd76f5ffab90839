"""`rung export`: a model as a folder for other tools, proven to answer as it does here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rung import exports


def _formats() -> str:
    """Every export format with what it is, for help."""
    return " ".join(f"{one.name.replace('_', '-')}: {one.summary}." for one in exports.registry.all())


def _precisions() -> str:
    """The precisions that formats can write, for help."""
    found = {name: None for one in exports.registry.all() for name in one.tolerance}
    return ", ".join(found)


def export(
    name: Annotated[str, typer.Argument(help="The model to export.")],
    folder: Annotated[Path, typer.Argument(help="Where to; must not exist or be empty.")],
    to: Annotated[str, typer.Option(help=_formats())] = "peft",
    dtype: Annotated[
        str | None,
        typer.Option(help=f"Precision to write, where the format has a choice: {_precisions()}."),
    ] = None,
    prove: Annotated[
        str | None,
        typer.Option(help="Refuse what this cannot run: llama.cpp. By default it runs where it is."),
    ] = None,
) -> None:
    """Write a model for other tools, and prove that it gives the same logits."""
    from rung.exports.export import export as write

    proof = write(name, folder, to, dtype, prove_by=prove)
    by = f", read by {proof.by}" if proof.by else ""
    typer.echo(f"{folder}: {to}, {proof.told(name)}{by}")
    if proof.ran:
        typer.echo(proof.ran)
