"""`rung bases`: the catalogue of well-known bases, and what of them is on this machine.

rung bases                        # everything
rung bases --modality text --licence permissive
rung bases --cached               # only what is on this machine
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

MODALITIES = ("text", "vision", "multimodal")


def bases(
    modality: Annotated[
        str | None, typer.Option(help="Only bases for this: text, vision or multimodal.")
    ] = None,
    licence: Annotated[
        str | None,
        typer.Option(
            help="Only licences of this class: permissive, restricted, non-commercial or closed."
        ),
    ] = None,
    cached: Annotated[bool, typer.Option(help="Show only what is on this machine.")] = False,
) -> None:
    """List the bases that Rung knows by a short name, and those in the cache.

    Any other base works by its Hub id, folder, GGUF file, wheel:PACKAGE/MEMBER or scratch:.
    """
    from rich.console import Console

    from rung.types import LICENCE_ORDER

    check("--modality", modality, MODALITIES)
    check("--licence", licence, LICENCE_ORDER)
    console = Console()
    if not cached:
        console.print(catalogue_table(modality, licence))
    console.print(cache_table())


def check(flag: str, value: str | None, known: tuple[str, ...]) -> None:
    """Refuse a value that is not known.

    Raises:
        ConfigError: naming the nearest one.
    """
    from rung.errors import ConfigError, nearest

    if value is not None and value not in known:
        raise ConfigError(f"{flag} is '{value}'{nearest(value, known)}")


def catalogue_table(modality: str | None, licence: str | None) -> Any:
    """The catalogue as a table, filtered by modality and licence class."""
    from rich.markup import escape
    from rich.table import Table

    from rung.bases import DEFAULT, catalogue

    table = Table(title="catalogue", title_justify="left")
    for column in ("name", "organisation", "for", "licence", "class"):
        table.add_column(column, overflow="fold")
    table.add_column("weights", justify="right")
    table.add_column("context", justify="right")
    table.add_column("notes", overflow="fold")
    for entry in catalogue():
        if modality not in (None, entry.modality) or licence not in (None, entry.licence_class):
            continue
        table.add_row(
            f"[bold]{entry.name}[/] (default)" if entry.name == DEFAULT else entry.name,
            entry.organisation,
            entry.modality,
            entry.licence,
            entry.licence_class,
            count(entry.parameters),
            f"{entry.context:,}" if entry.context else "",
            escape(entry.notes),
        )
    return table


def cache_table() -> Any:
    """What lies in the cache, or a line that says it is empty."""
    from rich.markup import escape
    from rich.table import Table

    from rung.bases import cached

    found = cached()
    if not found:
        return "Nothing in the cache yet."
    table = Table(title="on this machine", title_justify="left")
    for column in ("what", "name", "size", "path"):
        justify: Any = "right" if column == "size" else "left"
        table.add_column(column, justify=justify, overflow="fold")
    for item in found:
        table.add_row(item.kind, escape(item.name), f"{item.size / 1e6:,.0f} MB", escape(item.path))
    return table


def count(parameters: int) -> str:
    """A number of weights in short: 135M, 1.7B; empty when it is not published."""
    if not parameters:
        return ""
    if parameters >= 1e9:
        return f"{parameters / 1e9:.3g}B"
    return f"{parameters / 1e6:.3g}M"
