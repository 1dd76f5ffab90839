"""A language model that chooses: log-probabilities of replies to questions, on one trie."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rung.errors import ConfigError
from rung.types import Example, Message

if TYPE_CHECKING:
    from rung.engine import ServedModel
    from rung.forward.bank import Bank
    from rung.mapping.problem import Chooser


def chooser_of(bank: Bank, model: ServedModel) -> Chooser:
    """Make a chooser of a model of a bank.

    Raises:
        ConfigError: when the model does not write text.
    """
    if model.classifier is not None or model.remote is not None or model.reward is not None:
        raise ConfigError(
            f"'{model.name}' cannot choose among candidates: --reranker takes a model that writes"
        )

    def choose(
        asked: Sequence[Sequence[Message]], replies: Sequence[Sequence[str]]
    ) -> list[list[float]]:
        """The mean log-probability of a token of each reply, in nats, so that long names stay in."""
        from rung.evals.scoring import Item, score

        items = [
            Item(model.prompt(messages).ids, _replies(model, messages, texts))
            for messages, texts in zip(asked, replies, strict=True)
        ]
        longest = max((len(i.prompt) + max(map(len, i.answers)) for i in items), default=0)
        if longest > bank.context:
            raise ConfigError(
                f"a question to the reranker has {longest} tokens and its context {bank.context}: take "
                "fewer --shots or --reranked"
            )
        found = score(bank, model.slot, items)
        return [
            [value / len(answer) for value, answer in zip(values, item.answers, strict=True)]
            for values, item in zip(found, items, strict=True)
        ]

    return choose


def _replies(
    model: ServedModel, messages: Sequence[Message], texts: Sequence[str]
) -> tuple[tuple[int, ...], ...]:
    """Replies as token ids with the end of turn, so that one that begins another is told from it."""
    start = len(model.template.prompt(messages))
    return tuple(
        model.template.render(Example((*messages, {"role": "assistant", "content": text}))).ids[start:]
        for text in texts
    )
