"""`rung data SOURCE`: look at data the way a training will see it.

rung data quotes.json --user 'Who said: {text}' --assistant '{from}'
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rung.cli.flags import Given, Panel, takes_knobs
from rung.config import knobs_of, resolve
from rung.data import DataKnobs, Template, load, split
from rung.data.report import Report, Shown, report

if TYPE_CHECKING:
    from rich.console import Console

MAX_LABELS = 12
MAX_SHOWN_CHARACTERS = 2000


def show_data(
    knobs: DataKnobs,
    template: Template | None = None,
    *,
    max_length: int | None = None,
    vocabulary: int | None = None,
    as_json: bool = False,
    console: Console | None = None,
) -> int:
    """Print what the data is, two rows as the model sees them, and what is wrong.

    Returns:
        The exit code: 1 when training would refuse this data, else 0.

    Raises:
        ConfigError, DataError, BaseNotFound: as `rung.data.load` and `rung.data.split`.
    """
    from rich.console import Console

    console = console or Console()
    dataset = load(knobs, wants=None)
    if any(m.get("pictures") for e in dataset.examples for m in e.messages):
        template = None  # pictures are rendered by no template of words
    found = report(
        dataset, split(dataset, knobs), template, max_length=max_length, vocabulary=vocabulary
    )
    if as_json:
        # Not through rich, which would wrap long lines.
        console.file.write(json.dumps(found.as_dict(), ensure_ascii=False, indent=2) + "\n")
    else:
        _summary(found, console)
        for shown in found.shown:
            _row(shown, console)
        _problems(found, console)
    return int(any(p.severity == "error" for p in found.problems))


def _summary(found: Report, console: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    sizes = found.lengths
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    lines = {
        "data": found.source,
        "format": f"{found.format} ({found.how})",
        "rows": f"{found.rows:,}",
        "splits": ", ".join(f"{name} {count:,}" for name, count in found.splits.items()),
        f"{sizes.unit} a row": f"{sizes.least:,} least, {sizes.median:,} median, "
        f"{sizes.p95:,} at 95%, {sizes.most:,} most, {sizes.total:,} in all",
        "licence": found.licence,
        "duplicates": f"{found.duplicates:,}",
        "digest": found.digest[:16],
    }
    if found.supervised is not None:
        lines["learnt"] = f"{found.supervised:,} tokens of the training rows"
    if found.labels:
        first = list(found.labels.items())[:MAX_LABELS]
        rest = len(found.labels) - len(first)
        lines["labels"] = ", ".join(f"{name} {count:,}" for name, count in first)
        lines["labels"] += f" and {rest} more" if rest else ""
    for name, value in lines.items():
        table.add_row(Text(name), Text(value))
    console.print(table)


def _row(shown: Shown, console: Console) -> None:
    """One row; what is learnt is underlined in green, or bracketed where there is no colour."""
    from rich.text import Text

    plain = console.no_color or not console.is_terminal
    text = Text()
    if plain:
        text.append(shown.marked())
    else:
        for span in shown.spans:
            text.append(span.text, style="underline green" if span.supervised else "dim")
    # The reply stands at the end, so it is the middle that gives way.
    if len(text) > MAX_SHOWN_CHARACTERS:
        half = MAX_SHOWN_CHARACTERS // 2
        cut = f"\n[{len(text) - MAX_SHOWN_CHARACTERS:,} characters left out]\n"
        text = text[:half] + Text(cut, style="italic") + text[-half:]
    mark = "in ⟦⟧" if plain else "underlined"
    console.print()
    console.print(
        Text(
            f"{shown.origin}: {shown.tokens:,} tokens, {shown.supervised:,} learnt ({mark})",
            style="bold",
        )
    )
    console.print(text, soft_wrap=True)


def _problems(found: Report, console: Console) -> None:
    from rich.text import Text

    console.print()
    if not found.problems:
        console.print(Text("no problems found", style="green"))
    for problem in sorted(found.problems, key=lambda p: p.severity):
        style = "bold red" if problem.severity == "error" else "yellow"
        line = Text(f"{problem.severity}: ", style=style)
        console.print(line + Text(problem.message), soft_wrap=True)


@takes_knobs([Panel("data", knobs_of(DataKnobs)).without("data")])
def data(
    source: Annotated[str, typer.Argument(help="What --data of rung tune takes.", metavar="SOURCE")],
    given: Given,
    base: Annotated[str | None, typer.Option(help="The base whose template renders the rows.")] = None,
    max_length: Annotated[int, typer.Option(min=2, help="Rows above it are named.")] = 1024,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON.")] = False,
) -> None:
    """Look at data the way a training will see it: rows, lengths, rendered text, problems.

    What is learnt is marked. Exit code 1 says that a training would refuse the data.
    """
    from rung import bases
    from rung.bases.folder import vocabulary_of
    from rung.bases.loaded import read_tokenizer

    (knobs,) = resolve([DataKnobs], given, {"data": source})
    path = Path(bases.resolve(base or bases.DEFAULT).path)
    template = Template.of(read_tokenizer(path)) if bases.reads(path) == "text" else None
    code = show_data(
        knobs, template, max_length=max_length, vocabulary=vocabulary_of(path), as_json=as_json
    )
    if code:
        raise typer.Exit(code)
