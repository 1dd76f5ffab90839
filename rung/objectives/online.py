"""Online objectives: prompts become rows whose answers the model draws, and rewards score them.

An objective says what is made of the scores (`advantages`) and its loss; `rollouts.py` draws.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any, ClassVar

from rung import rewards
from rung.config import knob
from rung.errors import DataError, MethodMisfit
from rung.objectives import base

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from rung.forward.policy import Policy
    from rung.objectives.drawer import Drawn
    from rung.objectives.rollouts import RolloutSource
    from rung.types import Decoding

Scores = Sequence[Sequence[float | None]]


@dataclasses.dataclass
class DrawingKnobs:
    """How answers are drawn and scored."""

    group: ClassVar[str] = "drawing"

    reward: list[str] = rewards.specs_knob()
    answers: int | None = knob(
        None, "Answers drawn to each prompt; grpo 8, rloo 4, ppo 1 by default.", least=1, most=1024,
        foreign=("num_generations", "n_samples_per_prompt", "rloo_k"),
    )  # fmt: skip
    answer_tokens: int = knob(
        128, "Tokens of an answer at most.", least=1,
        foreign=("max_completion_length", "max_new_tokens", "generate_max_len", "response_length"),
    )  # fmt: skip
    temperature: float = knob(1.0, "Of drawing answers.", above=0, most=10)
    top_p: float = knob(1.0, "Draw from the likeliest tokens that reach this share.", above=0, most=1)
    top_k: int = knob(0, "Draw from so many of the likeliest tokens; 0 is all.", least=0)
    updates: int = knob(
        1, "Optimiser steps on each draw of answers.", least=1, most=64,
        foreign=("num_iterations", "num_ppo_epochs", "ppo_epochs"),
    )  # fmt: skip
    clip_low: float = knob(
        0.2, "How far a token's ratio may fall below 1 before it is clipped.", above=0, most=1,
        foreign=("epsilon", "eps_clip", "cliprange", "clip_ratio"),
    )  # fmt: skip
    clip_high: float | None = knob(
        None, "How far it may rise above 1; as clip-low by default, 0.28 in DAPO.", above=0,
        foreign=("epsilon_high", "eps_clip_high"),
    )  # fmt: skip
    reference: str = knob(
        "start", "What divergence is measured from: the model that training starts from, or its base.",
        choices=("start", "base"),
    )  # fmt: skip
    mask_truncated: bool = knob(
        False, "Learn nothing from answers that were cut off.",
        foreign=("mask_truncated_completions",),
    )  # fmt: skip


class Online(base.Objective):
    """An objective that learns from rewards of answers that the model draws while it is trained.

    Attributes:
        grouped: an answer is held against others to the same prompt.
    """

    Config = DrawingKnobs
    defaults: ClassVar[dict[str, Any]] = {
        "epochs": 1.0, "schedule": "constant", "warmup": 0.0, "patience": 0,
    }  # fmt: skip
    rate = 0.03
    wants = "prompts"
    best = ("reward", "high")
    draws = True
    grouped: ClassVar[bool] = True
    usual_answers: ClassVar[int] = 8

    def configured(self, config):
        made = super().configured(config)
        rewards.check(config.reward)
        return made

    @property
    def answers(self) -> int:
        """Answers to each prompt."""
        return self.config.answers or self.usual_answers

    @property
    def clip(self) -> tuple[float, float]:
        """How far a ratio may fall below and rise above 1."""
        return self.config.clip_low, self.config.clip_high or self.config.clip_low

    def decoding(self, temperature: float | None = None) -> Decoding:
        """How answers are drawn; at another temperature where that is given."""
        from rung.types import Decoding

        config = self.config
        return Decoding(
            max_tokens=config.answer_tokens, top_p=config.top_p, top_k=config.top_k,
            temperature=config.temperature if temperature is None else temperature,
        )  # fmt: skip

    # --- rows -------------------------------------------------------------------------------------

    def rows(self, examples, template, limit):
        from rung.data import Problem
        from rung.data.problem import counted, places

        rows, refused, long = [], [], []
        for example in examples:
            try:
                row = self.row(example, template)
            except DataError as fault:
                refused.append(str(fault))
                continue
            fits = len(row.ids) + self.config.answer_tokens <= limit
            rows.append(row) if fits else long.append(row.origin)
        problems = [Problem("error", "; ".join(refused[:10]), tuple(refused))] if refused else []
        if long:
            told = (
                f"{counted(long, 'prompt leaves', 'prompts leave')} no room for --answer-tokens "
                f"{self.config.answer_tokens} "
                f"within {limit} tokens ({places(long)}): they are left out"
            )
            problems.append(Problem("warning", told, tuple(long)))
        return rows, problems

    def row(self, item, template):
        from rung.data.prompts import parts
        from rung.forward.trie import Sequence
        from rung.tools.agent import Agent

        prompt, gold = parts(item)
        shown = Agent.of(item.tools).messages(prompt) if item.tools else prompt
        return base.Row(
            sequences=(Sequence(template.prompt(shown)),), weight=1.0, origin=item.origin,
            extra={"prompt": prompt, "gold": gold, "columns": item.columns, "tools": item.tools},
        )  # fmt: skip

    def expected(self, row):
        from rung.forward.trie import Sequence

        ids, size = row.ids.tolist(), self.config.answer_tokens
        drawn = [[k % 7] * size for k in range(self.answers)]
        mask = (False,) * len(ids) + (True,) * size
        return dataclasses.replace(
            row, sequences=tuple(Sequence((*ids, *one), mask) for one in drawn), extra={}
        )

    # --- drawing ----------------------------------------------------------------------------------

    def source(self, setting):
        from rung.forward.token_rows import NO_REFERENCE
        from rung.objectives.rollouts import RolloutSource
        from rung.rewards.scorers import Scorers

        bank = setting.bank
        load_model = Scorers(bank, str(bank.device), str(bank.dtype).removeprefix("torch."))
        context = rewards.Context(model=load_model, ask=load_model.ask, note=setting.note)
        reward = rewards.make(self.config.reward, context)
        reference = None
        if self.needs_reference and self.config.reference == "start":
            reference = deepcopy(setting.adapter).trainable(False)
        rows = setting.adapter.tokens
        if self.needs_reference and reference is None and rows and rows.end > bank.vocabulary:
            raise MethodMisfit(NO_REFERENCE)
        return RolloutSource(self, setting, reward, reference)

    @property
    def needs_reference(self) -> bool:
        """Whether divergence from the reference counts."""
        return False

    def control(self) -> dict[str, float]:
        """What changes from draw to draw beside the weights, by name; kept in checkpoints."""
        return {}

    def learnt(
        self,
        source: RolloutSource,
        prompts: Sequence[base.Row],
        groups: Sequence[Sequence[Drawn]],
        scores: Scores,
        figures: Mapping[str, float],
    ) -> list[base.Row]:
        """Rows of one draw, each prompt with its answers and what `loss` needs of every token.

        Arrays of `extra` hold a figure for each drawn token of the row, (M,): `old` and `reference`
        log-probabilities, `advantages`, `scale`, by which a token's loss is multiplied, and `share`,
        which makes a mean over the step's tokens of a sum.
        """
        import numpy as np

        from rung.objectives.rollouts import over_tokens, sequences_of

        sequences = [sequences_of(p, g) for p, g in zip(prompts, groups, strict=True)]
        arrays: dict[str, list[np.ndarray]] = {
            "old": [np.concatenate([one.logprobs for one in group]) for group in groups]
        }
        if self.needs_reference:
            arrays["reference"] = over_tokens(
                source.setting.bank, source.reference, sequences, self.logprobs
            )
        arrays |= self.weighed(source, sequences, groups, scores, arrays)
        return [
            base.Row(
                sequences=sequences[i], weight=1.0, origin=prompt.origin,
                extra={**{name: each[i] for name, each in arrays.items()}, "figures": dict(figures)},
            )
            for i, prompt in enumerate(prompts)
        ]  # fmt: skip

    def weighed(
        self, source: RolloutSource, sequences: Sequence, groups: Sequence[Sequence[Drawn]],
        scores: Scores, arrays: Mapping[str, list[np.ndarray]],
    ) -> dict[str, list[np.ndarray]]:  # fmt: skip
        """`advantages`, `scale` and `share` of every token, (M,) for each group, and what else is."""
        import numpy as np

        lengths = [self.counted(group) for group in groups]
        tokens = sum(float(group.sum()) for group in lengths)
        spread = self.scales(lengths)
        advantages = self.advantages(groups, scores, arrays)
        sizes = [[one.tokens for one in group] for group in groups]
        # A step's loss is the mean over its rows: times their number the sum is what was wanted.
        shares = [np.where(g > 0, len(groups) / max(1.0, tokens), 0.0) for g in lengths]
        return {
            "advantages": [np.repeat(a, n) for a, n in zip(advantages, sizes, strict=True)],
            "scale": [np.repeat(s * len(groups), n) for s, n in zip(spread, sizes, strict=True)],
            "share": [np.repeat(s, n) for s, n in zip(shares, sizes, strict=True)],
        }

    def counted(self, group: Sequence[Drawn]) -> np.ndarray:
        """Tokens of each answer that are learnt from, (G,); 0 where it is masked."""
        import numpy as np

        masked = self.config.mask_truncated
        return np.array([0 if masked and one.truncated else one.tokens for one in group])

    @abstractmethod
    def advantages(
        self, groups: Sequence[Sequence[Drawn]], scores: Scores, arrays: Mapping[str, list[np.ndarray]]
    ) -> list[np.ndarray]:
        """How much better each answer is than expected, (G,) for each group."""

    @abstractmethod
    def scales(self, lengths: Sequence[np.ndarray]) -> list[np.ndarray]:
        """What each answer's summed token losses are multiplied by, (G,) for each group."""

    # --- the loss ---------------------------------------------------------------------------------

    def logprobs(self, policy: Policy) -> Tensor:
        """Log-probabilities of a pass, (E,), at the temperature and truncation of drawing."""
        from rung.objectives.rollouts import kept_by

        return policy.logprobs(self.config.temperature, kept_by(self.decoding()))

    def loss(self, policy, rows):
        import torch

        from rung.forward.policy import Loss
        from rung.objectives.tokens import DrawnTokens

        if all(row.extra.get("measured") for row in rows):
            return Loss(torch.zeros(()), float(len(rows)), summed(rows))
        tokens = DrawnTokens.of(policy, rows, self.logprobs(policy))
        total, metrics = self.surrogate(policy, tokens)
        return Loss(total, float(len(rows)), {**summed(rows), **metrics})

    @abstractmethod
    def surrogate(self, policy: Policy, tokens: Any) -> tuple[Tensor, dict[str, float]]:
        """The loss of `DrawnTokens`, a differentiable sum, and metrics as sums over rows."""


def summed(rows: Sequence[base.Row]) -> dict[str, float]:
    """The figures of the draw that rows are of, as sums over rows."""
    found: dict[str, float] = {}
    for row in rows:
        for name, value in row.extra["figures"].items():
            found[name] = found.get(name, 0.0) + value
    return found
