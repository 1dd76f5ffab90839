"""`rung bases`: the catalogue of well-known bases, and what of them is on this machine.

rung bases                        # everything
rung bases --modality text --licence permissive
rung bases --cached               # only what is on this machine
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

MODALITIES = ("text", "vision", "multimodal")
WIDE = 120  # columns of the terminal from which on notes fit


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
        console.print(catalogue_table(modality, licence, wide=console.width >= WIDE))
    console.print(cache_table())


def check(flag: str, value: str | None, known: tuple[str, ...]) -> None:
    """Refuse a value that is not known.

    Raises:
        ConfigError: naming the nearest one.
    """
    from rung.errors import ConfigError, nearest

    if value is not None and value not in known:
        raise ConfigError(f"{flag} is '{value}'{nearest(value, known)}")


def catalogue_table(modality: str | None, licence: str | None, wide: bool) -> Any:
    """The catalogue as a table, filtered by modality and licence class; notes only when `wide`."""
    from rich.markup import escape

    from rung.bases import DEFAULT, catalogue

    table = new_table("catalogue")
    table.caption = f"default: {DEFAULT}; any other Hub id, folder or GGUF file works too"
    for column, width in (("name", 16), ("weights", 7), ("context", 9), ("for", 10), ("class", 14)):
        number = column in ("weights", "context")
        table.add_column(column, min_width=width, justify="right" if number else "left")
    table.add_column("licence", no_wrap=True)
    for column in ("by", "notes") if wide else ():
        table.add_column(column, overflow="fold")
    for entry in catalogue():
        if modality not in (None, entry.modality) or licence not in (None, entry.licence_class):
            continue
        cells = [
            entry.name,
            count(entry.parameters),
            f"{entry.context:,}" if entry.context else "",
            entry.modality,
            entry.licence_class,
            entry.licence,
        ]
        cells += [entry.organisation, escape(entry.notes)] if wide else []
        table.add_row(*cells, style="bold" if entry.name == DEFAULT else None)
    return table


def cache_table() -> Any:
    """What lies in the cache, or a line that says it is empty."""
    from rich.markup import escape

    from rung.bases import cached

    found = cached()
    if not found:
        return "Nothing in the cache yet."
    table = new_table("on this machine")
    table.add_column("what", no_wrap=True)
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("name", overflow="fold")
    table.add_column("path", overflow="fold")
    for item in found:
        size = f"{item.size / 1e6:,.1f} MB"
        table.add_row(item.kind, size, escape(item.name), escape(item.path))
    return table


def new_table(title: str) -> Any:
    """An empty table in the one style of this verb."""
    from rich import box
    from rich.table import Table

    style: Any = {"title_justify": "left", "caption_justify": "left", "pad_edge": False}
    return Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1), **style)


def count(parameters: int) -> str:
    """A number of weights in short: 135M, 1.7B; empty when it is not published."""
    if not parameters:
        return ""
    if parameters >= 1e9:
        return f"{parameters / 1e9:.3g}B"
    return f"{parameters / 1e6:.3g}M"
