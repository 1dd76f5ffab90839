"""Loss of replies: what each costs a model in nats, so that models are compared row by row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from rung.data import Template
from rung.engine import ServedModel
from rung.evals.compare import paired
from rung.evals.intervals import LEVEL, bootstrap, percentile
from rung.evals.scoring import Item, score
from rung.forward.bank import Bank
from rung.types import Example, Message


@dataclass(frozen=True)
class LossChange:
    """How much lower or higher the loss per token is, with its 95% interval by paired bootstrap.

    Attributes:
        p: how likely so large a change is by chance, see `compare.paired`.
    """

    before: float
    after: float
    low: float
    high: float
    rows: int
    p: float

    @property
    def certain(self) -> bool:
        """Whether a change can be shown."""
        return self.p < 1 - LEVEL


def reply_losses(
    bank: Bank, model: ServedModel, examples: Sequence[Example], system: str | None = None,
    stopping: Callable[[], bool] | None = None,
) -> np.ndarray:  # fmt: skip
    """Score the last reply of each conversation -> (n, 2): nats in all, and tokens.

    Args:
        system: message in front of every conversation, in the place of its own.
    """
    items = []
    for example in examples:
        asked = with_system(example.messages[:-1], system)
        items.append(Item(model.prompt(asked).ids, (_reply(model.template, asked, example),)))
    scores = score(bank, model.slot, items, stopping=stopping)
    pairs = zip(scores, items, strict=True)
    return np.array([[-found[0], len(item.answers[0])] for found, item in pairs])


def with_system(messages: Sequence[Message], system: str | None) -> list[Message]:
    """A conversation behind a system message; None leaves it as it is."""
    if system is None:
        return list(messages)
    return [{"role": "system", "content": system}, *(m for m in messages if m["role"] != "system")]


def change(before: np.ndarray, after: np.ndarray) -> LossChange:
    """Compare two models on the same rows, (n, 2) each."""
    drawn = bootstrap(after, per_token) - bootstrap(before, per_token)  # the same resamples
    low, high = percentile(drawn)
    was, now = (float(per_token(one.sum(0))) for one in (before, after))
    return LossChange(was, now, low, high, len(before), paired(drawn, before, after))


def per_token(sums: np.ndarray) -> np.ndarray:
    """Sums (..., 2) of nats and tokens -> nats per token (...)."""
    return sums[..., 0] / np.maximum(sums[..., 1], 1)


def _reply(template: Template, asked: Sequence[Message], example: Example) -> tuple[int, ...]:
    whole = Example((*asked, example.messages[-1]))
    return tuple(template.render(whole).ids[len(template.prompt(asked)) :])
