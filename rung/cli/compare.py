"""`rung compare`: what the base and models of it answer, side by side."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rung.cli.chat import (
    Device,
    Dtype,
    MaxTokens,
    Quantize,
    Seed,
    System,
    Temperature,
    TopP,
    decoding_of,
    loading,
)
from rung.errors import ConfigError

if TYPE_CHECKING:
    from rung.engine import Completion, Engine
    from rung.types import Message


def compare(
    names: Annotated[list[str], typer.Argument(help="Models of one base.")],
    prompt: Annotated[
        list[str] | None, typer.Option("--prompt", "-p", help="What to ask; may be repeated.")
    ] = None,
    system: System = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    seed: Seed = None,
    max_tokens: MaxTokens = None,
    dtype: Dtype = "float32",
    device: Device = "auto",
    quantize: Quantize = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write the answers as JSON.")] = False,
) -> None:
    """Ask the base and the models the same, in one batch, and show the answers side by side."""
    prompts = [text for text in prompt or [] if text.strip()]
    if not prompts:
        raise ConfigError("there is nothing to ask: give --prompt TEXT, once or more often")
    from rung.models import load_engine

    with loading():
        engine = load_engine(names, dtype=dtype, device=device, quantize=quantize)
        models = _base_first(engine)
        answers = _ask(engine, models, prompts, system, temperature, top_p, seed, max_tokens)
    if as_json:
        typer.echo(json.dumps(_plain(models, prompts, answers), indent=2, ensure_ascii=False))
    elif sys.stdout.isatty():
        _panels(models, prompts, answers)
    else:
        _lines(models, prompts, answers)


Answers = dict[tuple[str, str], "Completion"]


def _base_first(engine: Engine) -> list[str]:
    """The names to show: the base once, then the models as they were named."""
    bases = [n for n, m in engine.models.items() if m.slot == -1]
    return [bases[0], *(n for n in engine.models if n not in bases)]


def _ask(
    engine: Engine, models: list[str], prompts: list[str], system: str | None, *given: Any
) -> Answers:
    """Every model's answer to every prompt, all in one batch."""
    from rung.engine import GenerationRequest

    first: list[Message] = [{"role": "system", "content": system}] if system else []
    places = [(p, m) for p in prompts for m in models]
    requests = []
    for text, name in places:
        model = engine.model(name)
        prompt = model.prompt([*first, {"role": "user", "content": text}])
        requests.append(GenerationRequest(name, prompt, decoding_of(model.decoding, *given)))
    return dict(zip(places, engine.generate(requests), strict=True))


def _plain(models: list[str], prompts: list[str], answers: Answers) -> list[dict[str, Any]]:
    def told(completion: Completion) -> dict[str, Any]:
        return {
            "text": completion.text,
            "finish_reason": completion.finish_reason,
            "completion_tokens": completion.completion_tokens,
        }

    return [{"prompt": p, "answers": {m: told(answers[p, m]) for m in models}} for p in prompts]


def _panels(models: list[str], prompts: list[str], answers: Answers) -> None:
    """A table for each prompt, a column for each model."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    for p in prompts:
        table = Table(title=Text(p), title_justify="left", box=box.ROUNDED, expand=True)
        for name in models:
            table.add_column(Text(name), ratio=1, overflow="fold")
        table.add_row(*(Text(answers[p, m].text) for m in models))
        table.add_row(*(Text(_length(answers[p, m]), style="dim") for m in models))
        console.print(table)


def _lines(models: list[str], prompts: list[str], answers: Answers) -> None:
    """Plain text for pipes."""
    for p in prompts:
        typer.echo(f"prompt: {p}")
        for m in models:
            typer.echo(f"\n{m} ({_length(answers[p, m])})\n{answers[p, m].text}")
        typer.echo("")


def _length(completion: Completion) -> str:
    cut = ", cut" if completion.finish_reason == "length" else ""
    return f"{completion.completion_tokens} tokens{cut}"
