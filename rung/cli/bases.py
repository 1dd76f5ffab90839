"""`rung bases`: the catalogue of well-known bases, and what of them is on this machine.

rung bases                        # everything
rung bases --modality text --licence permissive
rung bases --cached               # only what is on this machine

On a terminal these are tables; into a pipe tab-separated lines, with `--json` one JSON value.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rung.bases import CatalogueEntry
    from rung.bases.cache import CachedBase

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
    cached: Annotated[
        bool, typer.Option("--cached", help="Show only what is on this machine.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON instead of tables.")] = False,
) -> None:
    """List the bases that Rung knows by a short name, and those in the cache.

    Any other base works by its Hub id, folder, GGUF file, wheel:PACKAGE/MEMBER or scratch:.
    """
    from rung.bases import catalogue
    from rung.types import LICENCE_ORDER

    check("--modality", modality, MODALITIES)
    check("--licence", licence, LICENCE_ORDER)
    known = [
        entry
        for entry in ([] if cached else catalogue())
        if modality in (None, entry.modality) and licence in (None, entry.licence_class)
    ]
    here = kept()
    if as_json:
        _write_json(None if cached else known, here)
    elif sys.stdout.isatty():
        from rich.console import Console

        console = Console()
        if not cached:
            console.print(catalogue_table(known, wide=console.width >= WIDE))
        console.print(cache_table(here) if here else "Nothing in the cache yet.")
    else:
        _write_lines(None if cached else known, here)


def kept() -> list[CachedBase]:
    """What lies in the cache but for files that only serve others, such as a wheel's licence."""
    from rung.bases import cached

    return [item for item in cached() if not Path(item.path).parent.name.endswith(".dist-info")]


def _write_json(known: list[CatalogueEntry] | None, here: list[CachedBase]) -> None:
    import json

    told: dict[str, Any] = {"cached": [asdict(item) for item in here]}
    if known is not None:
        told = {"catalogue": [asdict(entry) for entry in known], **told}
    typer.echo(json.dumps(told, indent=2, ensure_ascii=False))


def _write_lines(known: list[CatalogueEntry] | None, here: list[CachedBase]) -> None:
    """Tab-separated lines for cut and awk; the catalogue alone unless only the cache is asked for."""
    if known is None:
        rows = [[item.kind, str(item.size), item.name, item.path] for item in here]
        head = ["what", "bytes", "name", "path"]
    else:
        fields = ("name", "parameters", "context", "modality", "licence_class", "licence", "spec")
        head = ["weights" if name == "parameters" else name for name in fields]
        rows = [[str(getattr(entry, name)) for name in fields] for entry in known]
    for row in (head, *rows):
        typer.echo("\t".join(row))
    if not here:
        typer.echo("Nothing in the cache yet.", err=True)


def check(flag: str, value: str | None, known: tuple[str, ...]) -> None:
    """Refuse a value that is not known.

    Raises:
        ConfigError: naming the nearest one.
    """
    from rung.errors import ConfigError, nearest

    if value is not None and value not in known:
        raise ConfigError(f"{flag} is '{value}'{nearest(value, known)}")


def catalogue_table(known: list[CatalogueEntry], wide: bool) -> Any:
    """Entries of the catalogue as a table; notes only when `wide`."""
    from rich.markup import escape

    from rung.bases import DEFAULT

    table = new_table("catalogue")
    table.caption = f"default: {DEFAULT}; any other Hub id, folder or GGUF file works too"
    for column, width in (("name", 16), ("weights", 7), ("context", 9), ("for", 10), ("class", 14)):
        number = column in ("weights", "context")
        table.add_column(column, min_width=width, justify="right" if number else "left")
    table.add_column("licence", no_wrap=True)
    for column in ("by", "notes") if wide else ():
        table.add_column(column, overflow="fold")
    for entry in known:
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


def cache_table(here: list[CachedBase]) -> Any:
    """What lies in the cache; paths are relative to it, which the caption names."""
    from rich.markup import escape

    from rung.home import folder

    root = folder("cache")
    table = new_table("on this machine")
    table.caption = f"in {escape(str(root))}"
    table.add_column("what", no_wrap=True)
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("name", no_wrap=True)
    table.add_column("path", overflow="fold")
    for item in here:
        path = item.path.removeprefix(f"{root}/")
        table.add_row(item.kind, f"{item.size / 1e6:,.1f} MB", escape(item.name), escape(path))
    return table


def new_table(title: str) -> Any:
    """An empty table in the one style of this verb."""
    from rich import box
    from rich.table import Table

    style: Any = {"title_justify": "left", "caption_justify": "left", "pad_edge": False}
    style |= {"title_style": "bold", "caption_style": "dim"}
    return Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1), **style)


def count(parameters: int) -> str:
    """A number of weights in short: 135M, 1.7B; empty when it is not published."""
    if not parameters:
        return ""
    if parameters >= 1e9:
        return f"{parameters / 1e9:.3g}B"
    return f"{parameters / 1e6:.3g}M"
