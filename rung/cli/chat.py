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
from rung.library.knobs import DecodingKnobs, LoadKnobs


@takes_knobs(panels_of([("answers", DecodingKnobs), ("loading", LoadKnobs)]))
def chat(
    name: Annotated[str, typer.Argument(help="A model, or a base.")],
    given: Given,
    prompt: Annotated[str | None, typer.Option("--prompt", "-p", help="Ask this once and end.")] = None,
) -> None:
    """Ask a model: once with -p or a text on stdin, else as a conversation."""
    answers, loading = resolve([DecodingKnobs, LoadKnobs], given)
    from rung.models import check_name, load_engine

    check_name(name)  # before anything else is asked for
    if prompt is None and not sys.stdin.isatty():
        prompt = sys.stdin.read().strip()
        if not prompt:
            raise ConfigError("there is nothing to ask: give -p TEXT, or a text on stdin")
    elif prompt is not None and not prompt.strip():
        raise ConfigError("there is nothing to ask: -p is empty")
    from rung.cli import terminal
    from rung.cli.conversation import Conversation

    with status():
        engine = load_engine([name], **as_dict(loading), max_batch=1)
    talk = Conversation(engine, name, answers.over(engine.model(name).decoding), answers.system)
    try:
        if prompt is not None:
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
