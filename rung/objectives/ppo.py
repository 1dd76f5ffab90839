"""Proximal policy optimisation with a value head: each token's advantage by how rewards are foreseen.

    rung tune cheerful --data prompts.txt --objective ppo --reward lexicon:words.txt

The reward stands at an answer's last token; each token's divergence from the reference is taken off.
Values are a linear head on the policy's own states, whose gradient does not reach them, in place of a
second network; advantages are those of GAE, moved to mean 0 and variance 1 over the step. Clipping and
losses are OpenRLHF's. `--kl-target` adapts the weight of the divergence (arXiv 1909.08593).
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from rung.config import knob
from rung.objectives import online

KL_ERROR = 0.2  # largest share by which one draw changes the weight of the divergence
VALUE_RATE = 1.0  # weight of the value loss in the sum
VALUE_SPEED = 100.0  # the head learns so much faster than the policy, whose rate is small


@dataclasses.dataclass
class Config(online.DrawingKnobs):
    group: ClassVar[str] = "ppo"

    kl: float = knob(
        0.01, "Weight of the divergence from the reference, at first.", least=0,
        foreign=("kl_coef", "init_kl_coef", "kl_loss_coef"),
    )  # fmt: skip
    kl_target: float | None = knob(
        None, "Divergence of an answer, in nats, that the weight is adapted to.", above=0,
        foreign=("target_kl", "kl_target"),
    )  # fmt: skip
    kl_horizon: int = knob(
        10_000, "Answers over which the weight follows the target.", least=1, foreign=("horizon",)
    )
    gamma: float = knob(1.0, "Discount of later rewards, for each token.", above=0, most=1)
    lam: float = knob(
        0.95, "How far advantages look ahead rather than trust values (GAE's lambda).", least=0, most=1,
        foreign=("lambd", "gae_lambda"),
    )  # fmt: skip
    value_clip: float = knob(
        0.5, "How far a value may move from what it was when drawn.", above=0,
        foreign=("cliprange_value", "value_clip_range"),
    )  # fmt: skip
    reward_clip: float = knob(10.0, "Rewards beyond it, either way, count as it.", above=0)


class Objective(online.Online):
    summary = "make tokens likelier that led to more reward than a value head foresaw"
    paper = "Schulman et al. 2017, arXiv 1707.06347"
    Config = Config
    defaults: ClassVar = {**online.Online.defaults, "batch_size": 32}
    grouped = False
    usual_answers = 1

    def unread(self, config):
        # The weight is multiplied towards the target: 0 stays 0.
        return {} if config.kl > 0 else {"kl_target": "--kl above 0", "reference": "--kl above 0"}

    @property
    def needs_reference(self):
        return self.config.kl > 0

    def control(self):
        return {"kl": self.config.kl}

    def equip(self, adapter, bank, template):
        import torch

        if adapter.value is None:
            adapter.value = torch.zeros(bank.width + 1)

    # --- what is made of a draw -------------------------------------------------------------------

    def weighed(self, source, sequences, groups, scores, arrays):
        import numpy as np

        from rung.objectives.policy_gradient import advantages_and_returns, whitened
        from rung.objectives.rollouts import over_tokens

        found = super().weighed(source, sequences, groups, scores, arrays)
        values = over_tokens(source.setting.bank, source.slot, sequences, self.values)
        advantages, returns, known = [], [], []
        for i, group in enumerate(groups):
            gap = arrays["old"][i] - arrays["reference"][i] if "reference" in arrays else 0.0
            penalties = np.broadcast_to(-source.control["kl"] * gap, values[i].shape)
            ends = np.cumsum([one.tokens for one in group])
            parts = zip(
                np.split(values[i], ends[:-1]), np.split(penalties, ends[:-1]), scores[i], strict=True
            )
            pairs = [self._estimated(v, p, s, advantages_and_returns) for v, p, s in parts]
            advantages.append(np.concatenate([a for a, _ in pairs]))
            returns.append(np.concatenate([r for _, r in pairs]))
            sizes = [one.tokens for one in group]
            counted = self.counted(group)
            taught = [s is not None and n > 0 for s, n in zip(scores[i], counted, strict=True)]
            known.append(np.repeat(np.array(taught, dtype=float), sizes))
        self._adapt(source, groups, arrays)
        every = np.concatenate(known) > 0
        if every.any():
            flat = np.concatenate(advantages)
            flat[every] = whitened([flat[every]])[0]
            ends = np.cumsum([len(a) for a in advantages])[:-1]
            advantages = np.split(np.where(every, flat, 0.0), ends)
        scale = [s * k for s, k in zip(found["scale"], known, strict=True)]
        return {**found, "advantages": advantages, "scale": scale, "values": values, "returns": returns}

    def _estimated(self, values, penalties, score, estimate):
        """Advantages and returns of one answer, whose score stands at its last token."""
        import numpy as np

        rewards = np.array(penalties, dtype=np.float64)
        limit = self.config.reward_clip
        rewards[-1] += 0.0 if score is None else min(limit, max(-limit, score))
        return estimate(values, rewards, self.config.gamma, self.config.lam)

    def _adapt(self, source, groups, arrays):
        """Move the weight of the divergence towards its target, as seen in this draw."""
        if self.config.kl_target is None:
            return
        answers = sum(len(group) for group in groups)
        pairs = zip(arrays["old"], arrays["reference"], strict=True)
        gap = sum(float((old - reference).sum()) for old, reference in pairs) / answers
        error = min(KL_ERROR, max(-KL_ERROR, gap / self.config.kl_target - 1))
        source.control["kl"] *= 1 + error * answers / self.config.kl_horizon

    def advantages(self, groups, scores, arrays):
        import numpy as np

        return [np.zeros(len(group)) for group in groups]  # `weighed` has those of tokens

    def scales(self, lengths):
        from rung.objectives.policy_gradient import normalisers

        return normalisers(lengths, "dapo", self.config.answer_tokens)

    # --- the loss ---------------------------------------------------------------------------------

    def values(self, policy):
        """Values of the states that edges start from, (E,); their gradient ends at the head."""
        hidden = policy.hidden.detach()[policy.trie.source.to(policy.hidden.device)].float()
        head = policy.bank.adapters[policy.slot].value
        return VALUE_SPEED * (hidden @ head[:-1] / hidden.shape[1] ** 0.5 + head[-1])

    def surrogate(self, policy, tokens):
        from rung.objectives.policy_gradient import clipped, importance, value_loss

        kept = tokens.kept
        ratio = importance(tokens.new, kept["old"], tokens.owner, "token")
        losses, away = clipped(ratio, kept["advantages"], *self.clip)
        values = self.values(policy)[tokens.edges]
        errors = value_loss(values, kept["values"], kept["returns"], self.config.value_clip)
        metrics = {
            "clipped": tokens.mean(away.to(losses)), "ratio": tokens.mean(ratio),
            "value_loss": tokens.mean(errors), "value": tokens.mean(values),
        }  # fmt: skip
        if "reference" in kept:
            metrics["kl"] = tokens.mean(tokens.new - kept["reference"])
        return ((losses + VALUE_RATE * errors) * kept["scale"]).sum(), metrics
