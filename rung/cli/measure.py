"""`rung measure`: what kind of model a base is, measured here and put on one page.

On a terminal the table fills as parts are done; into a pipe go tab-separated lines, and with `--json`
one JSON value.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rung.cli.flags import Given, panels_of, takes_knobs
from rung.config import resolve
from rung.library.knobs import LoadKnobs

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table


@takes_knobs(panels_of([("loading", LoadKnobs)]))
def measure(
    base: Annotated[str, typer.Argument(help="The base: a name, a folder, a file or a Hub id.")],
    given: Given,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer and shorter of everything.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Where to write the page; cards/NAME.html at home by default.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write the figures as JSON.")] = False,
) -> None:
    """Say what kind of model a base is: size, licence, speed, reading, recall, variety.

    Writes a page with plots that needs no network.
    """
    (loading,) = resolve([LoadKnobs], given)
    from rung import bases, home
    from rung.evals.basecard import Subject, check_place, study, write_page
    from rung.train.estimate import device as device_of

    if loading.quantize is not None:
        bases.check_quantize(loading.quantize)
    if out is not None:
        check_place(out)
    where = device_of(loading.device)
    with Show(quiet=as_json) as show:
        show.stage(f"loading {base}")
        subject = Subject.load(base, dtype=loading.dtype, device=where, quantize=loading.quantize)
        show.name = subject.info.name
        path = out or home.folder("cards") / f"{_file_name(subject.info.name)}.html"
        check_place(path)
        card = study(subject, quick, show)
    write_page(card, path)
    if as_json:
        typer.echo(json.dumps({**card, "page": str(path)}, indent=2, ensure_ascii=False))
    typer.echo(f"page: {path}", err=True)


def _file_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "base"


class Show:
    """Shows figures as they are found; told by `study`.

    Args:
        quiet: show only how far it is, on stderr.
    """

    def __init__(self, quiet: bool = False):
        self.quiet, self.name = quiet, ""
        self.found_parts: list[tuple[str, list[tuple[str, str]]]] = []
        self.now = ""
        self.live: Live | None = None
        self._said = ""

    def __enter__(self) -> Show:
        from rich.console import Console
        from rich.live import Live

        console = Console(stderr=self.quiet or not sys.stdout.isatty())
        if console.is_terminal:
            self.live = Live(get_renderable=self._table, console=console, refresh_per_second=4)
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.now = ""
        if self.live is not None:
            self.live.stop()

    def stage(self, text: str) -> None:
        """Something that has no figures begins."""
        self.now = text
        if self.live is None and text != self._said:
            self._said = text
            typer.echo(text, err=True)

    def begin(self, part: str) -> None:
        from rung.evals.basecard.words import TITLES

        self.stage(TITLES[part].lower())

    def progress(self, part: str, share: float) -> None:
        from rung.evals.basecard.words import TITLES

        self.now = f"{TITLES[part].lower()} {share:.0%}"

    def found(self, part: str, figures: dict[str, Any]) -> None:
        from rung.evals.basecard.words import TITLES, says

        rows = says(part, figures)
        self.found_parts.append((TITLES[part], rows))
        if not self.quiet and not sys.stdout.isatty():
            for what, value in rows:
                typer.echo(f"{part}\t{what}\t{value}")

    def _table(self) -> Table:
        from rich import box
        from rich.table import Table

        table = Table(
            title=self.name or None, box=box.SIMPLE_HEAD, show_header=False, title_justify="left",
            caption=self.now or None, caption_justify="left", pad_edge=False,
        )  # fmt: skip
        table.add_column(style="bold cyan", no_wrap=True)
        table.add_column(style="dim", no_wrap=True)
        table.add_column(overflow="fold")
        for title, rows in self.found_parts:
            for i, (what, value) in enumerate(rows):
                table.add_row(title if i == 0 else "", what, value, end_section=i == len(rows) - 1)
        return table
