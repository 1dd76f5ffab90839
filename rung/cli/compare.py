"""`rung compare`: what the base and models of it answer, side by side."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rung.cli.chat import status
from rung.cli.flags import Given, panels_of, takes_knobs
from rung.config import as_dict, resolve
from rung.errors import ConfigError
from rung.library.knobs import DecodingKnobs, LoadKnobs

if TYPE_CHECKING:
    from rung.engine import Completion


@takes_knobs(panels_of([("answers", DecodingKnobs), ("loading", LoadKnobs)]))
def compare(
    names: Annotated[list[str], typer.Argument(help="Models of one base.")],
    given: Given,
    prompt: Annotated[
        list[str] | None, typer.Option("--prompt", "-p", help="What to ask; may be repeated.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write the answers as JSON.")] = False,
) -> None:
    """Ask the base and the models the same, in one batch, and show the answers side by side."""
    decoding, loading = resolve([DecodingKnobs, LoadKnobs], given)
    if not any(text.strip() for text in prompt or []):
        raise ConfigError("there is nothing to ask: give --prompt TEXT, once or more often")
    from rung.library.comparison import ask_all
    from rung.models import load_engine

    with status():
        answers = ask_all(load_engine(names, **as_dict(loading)), prompt or [], decoding)
    if as_json:
        typer.echo(json.dumps(_plain(answers), indent=2, ensure_ascii=False))
    elif sys.stdout.isatty():
        _panels(answers)
    else:
        _lines(answers)


Answers = dict[str, dict[str, "Completion"]]  # by prompt, then by model


def _plain(answers: Answers) -> list[dict[str, Any]]:
    def told(completion: Completion) -> dict[str, Any]:
        return {
            "text": completion.text,
            "finish_reason": completion.finish_reason,
            "completion_tokens": completion.completion_tokens,
        }

    return [
        {"prompt": prompt, "answers": {name: told(one) for name, one in found.items()}}
        for prompt, found in answers.items()
    ]


def _panels(answers: Answers) -> None:
    """Show a table for each prompt, a column for each model."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    for prompt, found in answers.items():
        table = Table(title=Text(prompt), title_justify="left", box=box.ROUNDED, expand=True)
        for name in found:
            table.add_column(Text(name), ratio=1, overflow="fold")
        table.add_row(*(Text(one.text) for one in found.values()))
        table.add_row(*(Text(_length(one), style="dim") for one in found.values()))
        console.print(table)


def _lines(answers: Answers) -> None:
    """Write plain text for pipes."""
    for prompt, found in answers.items():
        typer.echo(f"prompt: {prompt}")
        for name, one in found.items():
            typer.echo(f"\n{name} ({_length(one)})\n{one.text}")
        typer.echo("")


def _length(completion: Completion) -> str:
    cut = ", cut" if completion.finish_reason == "length" else ""
    return f"{completion.completion_tokens} tokens{cut}"
