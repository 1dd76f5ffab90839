"""Reward model in a bank: scores answers to prompts, also beside a model that is trained there."""

from __future__ import annotations

from collections.abc import Sequence

from rung.engine.served_model import ServedModel
from rung.errors import ConfigError
from rung.forward.bank import Bank
from rung.forward.rewards import rewards
from rung.types import Message

Asked = str | Sequence[Message]


class RewardModel:
    """One reward model whose adapter is resident in a bank.

    Args:
        model: its slot in the bank, with its template and its head.

    Raises:
        ConfigError: for a model that has no reward head.
    """

    def __init__(self, bank: Bank, model: ServedModel):
        if model.reward is None:
            raise ConfigError(
                f"'{model.name}' is no reward model: train one with rung tune NAME --objective reward"
            )
        self.bank, self.model, self.head = bank, model, model.reward

    def score(self, prompts: Sequence[Asked], answers: Sequence[str]) -> list[float]:
        """Score each answer to its prompt; what prompts and answers share is computed once.

        Args:
            prompts: users' messages, or conversations up to the answer; as many as answers.

        Raises:
            DataError: when a conversation cannot be rendered. ValueError: for unlike lengths.
        """
        texts = [
            self.model.judged([*_turns(prompt), {"role": "assistant", "content": answer}]).ids
            for prompt, answer in zip(prompts, answers, strict=True)
        ]
        return rewards(self.bank, self.model.slot, self.head, texts).tolist()


def _turns(prompt: Asked) -> list[Message]:
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
