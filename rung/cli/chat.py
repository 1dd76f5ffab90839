"""`rung chat`: talk to one model in the terminal."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rung.errors import ConfigError

if TYPE_CHECKING:
    from rung.types import Decoding

# Options of every verb that asks models; serve and compare take them from here.
Base = Annotated[str | None, typer.Option(help="A base to load: a name, a folder or a Hub id.")]
Dtype = Annotated[str, typer.Option(help="Of the base: float32, bfloat16, float16 or auto.")]
Device = Annotated[str, typer.Option(help="Where to compute: auto, cpu, cuda, cuda:1 or mps.")]
Quantize = Annotated[
    str | None,
    typer.Option(
        help="Keep the base in fewer bits: int8, nf4 or none; as the models were trained by default."
    ),
]
System = Annotated[str | None, typer.Option(help="The system message.")]
Temperature = Annotated[
    float | None,
    typer.Option(min=0, max=2, help="0 is greedy; the model's own by default.", show_default=False),
]
TopP = Annotated[
    float | None,
    typer.Option(min=0, max=1, help="Share of probability to draw from; the model's own by default."),
]
Seed = Annotated[int | None, typer.Option(help="Makes a draw repeatable.")]
MaxTokens = Annotated[int | None, typer.Option(min=1, help="Tokens of an answer at most.")]


def chat(
    name: Annotated[str, typer.Argument(help="A model, or a base.")],
    prompt: Annotated[str | None, typer.Option("--prompt", "-p", help="Ask this once and end.")] = None,
    system: System = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    seed: Seed = None,
    max_tokens: MaxTokens = None,
    dtype: Dtype = "float32",
    device: Device = "auto",
    quantize: Quantize = None,
) -> None:
    """Ask a model: once with -p or a text on stdin, else as a conversation."""
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

    with loading():
        engine = load_engine([name], dtype=dtype, device=device, quantize=quantize, max_batch=1)
    decoding = decoding_of(engine.model(name).decoding, temperature, top_p, seed, max_tokens)
    talk = Conversation(engine, name, decoding, system)
    try:
        if prompt is not None:
            talk.ask(prompt)
        else:
            terminal.converse(talk)
    finally:
        engine.stop()


def decoding_of(own: Decoding, *given: float | int | None) -> Decoding:
    """A model's decoding with what the flags say.

    Args:
        given: temperature, top_p, seed, max_tokens; None leaves the model's.

    Raises:
        ConfigError: for a seed that does not fit 64 bits.
    """
    from dataclasses import replace

    names = ("temperature", "top_p", "seed", "max_tokens")
    said: dict[str, Any] = {n: g for n, g in zip(names, given, strict=True) if g is not None}
    if not -(2**63) <= said.get("seed", 0) < 2**63:
        raise ConfigError("--seed must fit 64 bits")
    return replace(own, **said)


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """Says on stderr that the model is being loaded."""
    from rich.console import Console

    with Console(stderr=True).status("loading"):
        yield
