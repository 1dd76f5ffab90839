"""`rung chat`: talk to one model in the terminal."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Annotated

import typer

from rung.cli.flags import Given, panels_of, takes_knobs
from rung.config import as_dict, resolve
from rung.errors import ConfigError
from rung.library.knobs import DecodingKnobs, LoadKnobs, ToolKnobs


@takes_knobs(panels_of([("answers", DecodingKnobs), ("tools", ToolKnobs), ("loading", LoadKnobs)]))
def chat(
    name: Annotated[str, typer.Argument(help="A model, or a base.")],
    given: Given,
    prompt: Annotated[str | None, typer.Option("--prompt", "-p", help="Ask this once and end.")] = None,
    picture: Annotated[
        list[str] | None,
        typer.Option("--picture", help="Show this picture with -p, for models that see; repeatable."),
    ] = None,
    trace: Annotated[
        bool, typer.Option("--trace", help="Show each call of a tool and its result, on stderr.")
    ] = False,
) -> None:
    """Ask a model: once with -p or a text on stdin, else as a conversation."""
    answers, beside, loading = resolve([DecodingKnobs, ToolKnobs, LoadKnobs], given)
    from rung.cli import terminal
    from rung.models import check_name, load_engine

    check_name(name)  # before anything else is asked for
    if prompt is None and not sys.stdin.isatty():
        prompt = sys.stdin.read().strip()
        if not prompt:
            raise ConfigError("there is nothing to ask: give -p TEXT, or a text on stdin")
        if (first := prompt.split()[0]) in terminal.WORDS:
            typer.echo(f"(a text on stdin is one question: {first} is no command here)", err=True)
    elif prompt is not None and not prompt.strip() and not picture:
        raise ConfigError("there is nothing to ask: -p is empty")
    if picture and prompt is None:
        raise ConfigError("--picture goes with -p TEXT; in a conversation write /picture FILE")
    from rung.cli.conversation import Conversation

    with status():
        engine = load_engine([name], tools=beside.tools, **as_dict(loading), max_batch=1)
    own = engine.model(name).decoding
    told = (lambda text: typer.echo(text, err=True)) if trace else None
    talk = Conversation(engine, name, answers.over(own), answers.system, told)
    try:
        if prompt is not None:
            for path in picture or ():
                talk.show(path)
            talk.ask(prompt)
        else:
            terminal.converse(talk)
    finally:
        engine.stop()


@contextlib.contextmanager
def status() -> Iterator[None]:
    """Say on stderr that the model is being loaded."""
    from rich.console import Console

    with Console(stderr=True).status("loading"):
        yield
