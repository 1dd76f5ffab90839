"""REINFORCE leave-one-out: an answer's baseline is the mean reward of the others to its prompt.

    rung tune solver --data sums.jsonl --objective rloo --reward number --answers 4

Divergence from the reference, the sum of an answer's log-ratios, is taken off its reward before the
baseline is. The ratio that is clipped is that of whole answers. As TRL's.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from rung.config import knob
from rung.objectives import online


@dataclasses.dataclass
class Config(online.DrawingKnobs):
    group: ClassVar[str] = "rloo"

    kl: float = knob(
        0.05, "Weight of the divergence from the reference; 0 does without one.", least=0,
        foreign=("kl_coef", "init_kl_coef", "kl_loss_coef"),
    )  # fmt: skip
    normalise: bool = knob(
        False, "Move advantages to mean 0 and deviation 1 over the step.",
        foreign=("normalize_advantages",),
    )  # fmt: skip


class Objective(online.Online):
    summary = "make answers likelier whose reward is above the mean of the others"
    paper = "Ahmadian et al. 2024, arXiv 2402.14740"
    Config = Config
    usual_answers = 4

    def unread(self, config):
        return {} if config.kl > 0 else {"reference": "--kl above 0"}

    @property
    def needs_reference(self):
        return self.config.kl > 0

    def advantages(self, groups, scores, arrays):
        from rung.objectives.policy_gradient import leave_one_out

        if self.needs_reference:
            scores = [
                self._less_divergence(*one)
                for one in zip(groups, scores, arrays["old"], arrays["reference"], strict=True)
            ]
        return leave_one_out(scores, self.config.normalise)

    def _less_divergence(self, group, scores, old, reference):
        """Rewards of a group less the weighted sum of each answer's log-ratios."""
        import numpy as np

        ends = np.cumsum([one.tokens for one in group])[:-1]
        sums = [float(part.sum()) for part in np.split(old - reference, ends)]
        return [
            None if s is None else s - self.config.kl * gap for s, gap in zip(scores, sums, strict=True)
        ]

    def scales(self, lengths):
        import numpy as np

        # The loss of an answer stands at each of its tokens: they are to count as one.
        answers = sum(len(group) for group in lengths)
        return [np.where(g > 0, 1.0 / (np.maximum(g, 1) * answers), 0.0) for g in lengths]

    def surrogate(self, policy, tokens):
        from rung.objectives.policy_gradient import clipped, importance

        kept = tokens.kept
        ratio = importance(tokens.new, kept["old"], tokens.owner, "product")
        losses, away = clipped(ratio, kept["advantages"], *self.clip)
        metrics = {"clipped": tokens.mean(away.to(losses)), "ratio": tokens.mean(ratio)}
        if self.needs_reference:
            metrics["kl"] = tokens.mean(tokens.new - kept["reference"])
        return (losses * kept["scale"]).sum(), metrics
