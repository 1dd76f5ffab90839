"""Group relative policy optimisation: answers that are better than others to the same prompt gain.

    rung tune solver --data sums.jsonl --objective grpo --reward number

An answer's advantage is its reward less the mean of its group, over the group's deviation. There is no
value network. How token losses are averaged:

    dapo        over all tokens of the step (arXiv 2503.14476); TRL's default and this one's
    grpo        over each answer's tokens, then over answers, as in the paper
    bnpo        over the tokens of each group, then over groups
    dr_grpo     over answers times --answer-tokens (arXiv 2503.20783), with --scale none

What was not scored is left out of its group's mean and deviation and gets the advantage 0; its tokens
still count in a mean over tokens.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from rung.config import knob
from rung.objectives import online

NORMALISATIONS = ("dapo", "grpo", "bnpo", "dr_grpo")


@dataclasses.dataclass
class Config(online.DrawingKnobs):
    group: ClassVar[str] = "grpo"

    normalisation: str = knob(
        "dapo", "What token losses are averaged over.", choices=NORMALISATIONS, foreign=("loss_type",)
    )
    scale: str = knob(
        "group", "Whose deviation rewards are divided by.", choices=("group", "batch", "none"),
        foreign=("scale_rewards",),
    )  # fmt: skip
    ratio: str = knob(
        "token", "What is clipped: each token's ratio, or the answer's geometric mean (GSPO).",
        choices=("token", "sequence"), foreign=("importance_sampling_level",),
    )  # fmt: skip
    kl: float = knob(
        0.0, "Weight of the divergence from the reference; 0 does without one.", least=0,
        foreign=("kl_coef", "init_kl_coef", "kl_loss_coef"),
    )  # fmt: skip
    kl_estimator: str = knob("k3", "How the divergence is estimated.", choices=("k1", "k2", "k3"))
    kl_importance: bool = knob(
        True, "Multiply the divergence by the importance ratio, whose gradient is then unbiased.",
        foreign=("use_bias_correction_kl",),
    )  # fmt: skip


class Objective(online.Online):
    summary = "make answers likelier whose reward is above their group's mean"
    paper = "Shao et al. 2024, arXiv 2402.03300"
    Config = Config

    def unread(self, config):
        names = ("kl_estimator", "kl_importance", "reference")
        return {} if config.kl > 0 else dict.fromkeys(names, "--kl above 0")

    @property
    def needs_reference(self):
        return self.config.kl > 0

    def advantages(self, groups, scores, arrays):
        from rung.objectives.policy_gradient import group_advantages

        return group_advantages(scores, self.config.scale)

    def scales(self, lengths):
        from rung.objectives.policy_gradient import normalisers

        return normalisers(lengths, self.config.normalisation, self.config.answer_tokens)

    def surrogate(self, policy, tokens):
        from rung.objectives.policy_gradient import clipped, divergence, importance

        kept = tokens.kept
        ratio = importance(tokens.new, kept["old"], tokens.owner, self.config.ratio)
        losses, away = clipped(ratio, kept["advantages"], *self.clip)
        metrics = {"clipped": tokens.mean(away.to(losses)), "ratio": tokens.mean(ratio)}
        if self.config.kl > 0:
            gap = divergence(tokens.new, kept["reference"], self.config.kl_estimator)
            metrics["kl"] = tokens.mean(gap)
            losses = losses + self.config.kl * (gap * ratio if self.config.kl_importance else gap)
        return (losses * kept["scale"]).sum(), metrics
