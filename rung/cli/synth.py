"""`rung synth`: rows that a teacher writes from a description, checked, counted, with their licence."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rung.cli.flags import Given, panels_of, takes_knobs
from rung.config import resolve
from rung.data.problem import counted
from rung.synthesis.knobs import SynthKnobs

if TYPE_CHECKING:
    from rung.synthesis.pipeline import Made, Watcher


@takes_knobs(panels_of([("synthesis", SynthKnobs)]))
def synth(
    description: Annotated[str, typer.Argument(help="What the rows are for, in a sentence or two.")],
    given: Given,
    out: Annotated[Path, typer.Option(help="The file of rows; must end in .jsonl.", metavar="FILE")],
    replace: Annotated[bool, typer.Option("--replace", help="Write over a file of that name.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write the result as JSON.")] = False,
) -> None:
    """Write rows from a description: topics, prompts, answers, checked and without duplicates.

    Ctrl-C loses nothing: the same command goes on. Exit code 1 says that fewer rows were made.
    """
    (knobs,) = resolve([SynthKnobs], given)
    from rung.synthesis import writer
    from rung.synthesis.pipeline import synthesise

    writer.check(out, replace)
    with watching() as watcher:
        made = synthesise(description, knobs, watcher)
    if made is None:
        typer.echo(f"wrote the plan to {knobs.plan}: edit it and run the same command again", err=True)
        return
    card = writer.write(made, out, description, command_of(description, given, out))
    if as_json:
        typer.echo(json.dumps(plain(made, out), ensure_ascii=False))
    else:
        tell(made, out, card)
    if made.short:
        raise typer.Exit(1)


def command_of(description: str, given: Given, out: Path) -> str:
    """The command that makes the data set again."""
    return shlex.join(["rung", "synth", description, "--out", out.name, *flags_of(given)])


def flags_of(given: Given) -> list[str]:
    """The flags that were given, as words."""
    words: list[str] = []
    for name, value in given.items():
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            words.append(flag if value else f"--no-{flag[2:]}")
        else:
            for one in value if isinstance(value, list) else [value]:
                words += [flag, str(one)]
    return words


@contextmanager
def watching() -> Iterator[Watcher]:
    """Show on stderr what a synthesis does, and turn the first Ctrl-C into a flag."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from rung.errors import Interrupted
    from rung.synthesis.pipeline import Watcher
    from rung.train.job import stop_signal

    console = Console(stderr=True)
    columns = (TextColumn("rows"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with (
        stop_signal() as stopping,
        Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar,
    ):
        task = bar.add_task("rows", total=None)
        try:
            yield Watcher(
                note=lambda text: typer.echo(text, err=True),
                planned=lambda plan: typer.echo(f"topics: {'; '.join(plan.topics)}", err=True),
                progress=lambda done, wanted: bar.update(task, completed=done, total=wanted),
                stopping=stopping,
            )
        except Interrupted as stopped:
            bar.stop()
            typer.echo(f"interrupted; {stopped}: run the same command again to go on", err=True)
            raise typer.Exit(130) from None


def plain(made: Made, out: Path) -> dict:
    """What was made, as data."""
    from dataclasses import asdict

    return {
        "out": str(out), "rows": len(made.rows), "kind": made.kind.name,
        "topics": list(made.plan.topics), "licence": made.terms.licence,
        "licence_class": made.terms.licence_class,
        "refused": dict(made.refused), "diversity": asdict(made.diversity), "short": made.short,
        "usage": {t.name: asdict(t.usage) for t in made.teachers},
    }  # fmt: skip


def tell(made: Made, out: Path, card: Path) -> None:
    """Show what was made."""
    typer.echo(f"{out}: {counted(made.rows, 'row')} ({made.kind.name}); card in {card}")
    typer.echo(f"licence class: {made.terms.licence_class} ({'; '.join(made.terms.reasons)})")
    typer.echo(f"diversity: {made.diversity}")
    if made.refused:
        told = ", ".join(f"{why} {count}" for why, count in made.refused.most_common())
        typer.echo(f"refused drafts: {told}")
    for teacher in made.teachers:
        used = teacher.usage
        money = f", {used.money:.4f} spent" if used.money else ""
        typer.echo(
            f"{teacher.name}: {used.prompt_tokens:,} tokens read, {used.completion_tokens:,} written, "
            f"{used.kept:,} answers from before{money}"
        )
    if made.short:
        typer.echo(f"fewer rows than were asked for: {made.short}", err=True)
