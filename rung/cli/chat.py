"""`rung chat`: talk to one model in the terminal."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rung.errors import ConfigError

if TYPE_CHECKING:
    from rung.engine import Completion, Engine
    from rung.types import Decoding, Message

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


class Conversation:
    """The turns so far, and how the next answer is drawn."""

    def __init__(self, engine: Engine, name: str, decoding: Decoding, system: str | None):
        self.engine, self.decoding, self.system = engine.start(), decoding, system
        self.use_model(name)
        self.clear()

    def clear(self) -> None:
        """Forget the turns; the system message stays."""
        self.turns: list[Message] = []
        if self.system:
            self.turns.append({"role": "system", "content": self.system})

    def use_system(self, text: str | None) -> None:
        """Begin anew with another system message, None for none."""
        self.system = text
        self.clear()

    def use_model(self, name: str) -> None:
        """Have another model of the engine answer. Raises ModelNotFound for an unknown name."""
        self.model = self.engine.model(name)
        self.name = name

    def save(self, path: Path) -> None:
        """Append the turns to a file of JSON lines, one row of messages.

        Raises:
            ConfigError: when there is nothing to save, or the file cannot be written.
        """
        if not any(turn["role"] == "assistant" for turn in self.turns):
            raise ConfigError("there is nothing to save yet: ask something first")
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"messages": self.turns}, ensure_ascii=False) + "\n")
        except OSError as fault:
            raise ConfigError(f"cannot write {path}: {fault.strerror}") from None

    def ask(
        self,
        text: str,
        write: Callable[[str], Any] | None = None,
        end: Callable[[], None] = lambda: None,
    ) -> Completion:
        """Write the answer as it comes, and remember both; Ctrl-C cuts it short.

        Args:
            write: takes each piece of text; stdout by default. end: called behind the last one.

        Raises:
            RungError: when it cannot be answered; the turn is then forgotten.
        """
        from rung.engine import GenerationRequest

        write = write or _to_stdout
        asked: list[Message] = [*self.turns, {"role": "user", "content": text}]
        ids = self.model.prompt(asked)
        request = GenerationRequest(self.name, ids, self.decoding, messages=tuple(asked))
        generation = self.engine.submit(request)
        try:
            for token in generation:
                write(token.text)
        except KeyboardInterrupt:
            generation.cancel()
        end()
        sys.stdout.write("\n")
        answer = generation.result()
        if answer.finish_reason == "length" and sys.stderr.isatty():
            count = answer.completion_tokens
            typer.echo(f"(cut after {count} tokens: raise --max-tokens)", err=True)
        self.turns = [*asked, {"role": "assistant", "content": answer.text}]
        return answer


def _to_stdout(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
