"""Preferences: which of two replies a model finds better, by its reward head or by its likelihoods.

A reward model's rewards are explicit. Any other model's are implicit (Rafailov et al., arXiv
2305.18290): the log-likelihood of a reply under the model less that under its bare base, so the base
itself prefers nothing. Its own log-likelihoods are told beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rung.data import pairs
from rung.data.pairs import conversations
from rung.engine import ServedModel
from rung.engine.request import ContextExceeded
from rung.errors import ConfigError, Interrupted
from rung.evals.scoring import as_seen, replies_of, score
from rung.forward.bank import Bank
from rung.forward.rewards import rewards
from rung.types import Example, Rendered

Scores = dict[str, float]
MAX_SCORED = 64  # pairs whose rewards are computed between two looks at `stopping`


def compared(
    bank: Bank,
    model: ServedModel,
    examples: Sequence[Example],
    stopping: Callable[[], bool] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[Scores], int]:
    """Score both replies of each example: `chosen` and `rejected`, and how many tokens were read.

    Where the rewards are implicit, `chosen_likelihood` and `rejected_likelihood` are the model's own.

    Raises:
        ConfigError: for a model that says no likelihoods, or examples without two unlike replies.
        Interrupted: when `stopping` says so. ContextExceeded: when a reply is too long.
    """
    found, _ = pairs(examples)
    if model.remote is not None:
        raise ConfigError(f"'{model.name}' is behind an API, which does not say how likely a text is")
    if len(found) != len(examples):
        raise ConfigError("some rows have two equal replies: leave them out with --where")
    sides = [as_seen(model, one.messages[:-1], one) for pair in found for one in conversations(pair)]
    rows = [model.template.render(side) for side in sides]
    room = bank.context - bank.positions(model.slot)
    for row in rows:
        if len(row.ids) > room:
            raise ContextExceeded(
                f"{row.origin} has {len(row.ids)} tokens, the context of '{model.name}' is {room}"
            )
    if model.reward is not None:
        scores = _explicit(bank, model, rows, stopping, progress)
    else:
        scores = _implicit(bank, model, rows, [model.template.render(o) for p in found
                                               for o in conversations(p)], stopping)  # fmt: skip
    if progress is not None:
        progress(len(examples), len(examples))
    return scores, sum(len(row.ids) for row in rows)


def _explicit(
    bank: Bank, model: ServedModel, rows: Sequence[Rendered], stopping: Any, progress: Any
) -> list[Scores]:
    assert model.reward is not None
    values: list[float] = []
    for low in range(0, len(rows), 2 * MAX_SCORED):
        if stopping is not None and stopping():
            raise Interrupted
        texts = [row.ids for row in rows[low : low + 2 * MAX_SCORED]]
        values += rewards(bank, model.slot, model.reward, texts).tolist()
        if progress is not None:
            progress(len(values) // 2, len(rows) // 2)
    return [{"chosen": a, "rejected": b} for a, b in zip(values[::2], values[1::2], strict=True)]


def _implicit(
    bank: Bank, model: ServedModel, rows: Sequence[Rendered], bare: Sequence[Rendered], stopping: Any
) -> list[Scores]:
    """Rewards against the base, which reads the conversation as it stands in the data."""
    own = _likelihoods(bank, model.slot, rows, stopping)
    plain = model.slot == -1 and model.conversation is None
    fixed = own if plain else _likelihoods(bank, -1, bare, stopping)
    gains = [a - b for a, b in zip(own, fixed, strict=True)]
    return [
        {
            "chosen": gains[i], "rejected": gains[i + 1],
            "chosen_likelihood": own[i], "rejected_likelihood": own[i + 1],
        }
        for i in range(0, len(gains), 2)
    ]  # fmt: skip


def _likelihoods(bank: Bank, slot: int, rows: Sequence[Rendered], stopping: Any) -> list[float]:
    """Sums of the log-probabilities of the replies, those of each row together."""
    items = [replies_of(row) for row in rows]
    values = iter(score(bank, slot, [one for row in items for one in row], stopping=stopping))
    return [sum(next(values)[0] for _ in row) for row in items]
