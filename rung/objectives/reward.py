"""Reward model: a score for any text, learnt from which of two replies is better (Bradley-Terry).

    rung tune judge --data pairs.jsonl --objective reward --method lora

The score is a linear layer on the state of the end of turn, which is the last token of every row, of
conversations and plain texts alike. The loss is -log sigmoid(chosen - rejected), as TRL's. Two terms
may be added: `--margin-scale` asks that the gap exceed each row's margin times so much (1 is TRL's and
Llama 2's, arXiv 2307.09288; rows without a margin ask for 0), and `--centre` pulls the sum of the two
scores towards 0 (arXiv 2312.09244), without which only differences mean anything.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from rung.config import knob
from rung.objectives import base


@dataclasses.dataclass
class Config:
    group: ClassVar[str] = "reward"

    margin_scale: float = knob(
        0.0, "Times each row's margin, the gap that scores must exceed; 0 heeds no margins.", least=0
    )
    centre: float = knob(
        0.0, "Weight of the squared sum of a pair's scores.", least=0,
        foreign=("center_rewards_coefficient",),
    )  # fmt: skip


class Objective(base.Objective):
    summary = "score the chosen reply of a pair above the rejected one"
    paper = "Ouyang et al. 2022, arXiv 2203.02155"
    Config = Config
    defaults: ClassVar = {"epochs": 1.0}
    wants = "pairs"
    reads_states = True
    scores = True

    def equip(self, adapter, bank, template):
        from rung.forward.reward_head import RewardHead

        if adapter.reward is None:
            adapter.reward = RewardHead.fresh(bank.width, template.stop_ids[0])

    def row(self, item, template):
        from rung.data.pairs import conversations
        from rung.forward.trie import Sequence

        sides = [template.render(one).ids for one in conversations(item)]
        end = template.stop_ids[0]
        sequences = tuple(Sequence(ids if ids[-1] == end else (*ids, end)) for ids in sides)
        return base.Row(
            sequences=sequences, weight=1.0, origin=item.origin, extra={"margin": item.margin or 0.0}
        )

    def loss(self, policy, rows):
        import torch
        from torch.nn.functional import logsigmoid

        from rung.forward.policy import Loss

        chosen, rejected = policy.rewards().view(-1, 2).unbind(1)  # (pairs,) each
        margins = torch.tensor([r.extra["margin"] for r in rows], dtype=torch.float64).to(chosen)
        losses = -logsigmoid(chosen - rejected - self.config.margin_scale * margins)
        if self.config.centre:
            losses = losses + self.config.centre * (chosen + rejected) ** 2
        better = chosen.detach() - rejected.detach()
        metrics = {
            # Equal scores tell nothing: they count as half right.
            "reward_accuracy": float((better > 0).sum() + 0.5 * (better == 0).sum()),
            "reward_margin": float(better.sum()),
            "reward_chosen": float(chosen.detach().sum()),
            "reward_rejected": float(rejected.detach().sum()),
        }
        return Loss(losses.sum(), float(len(rows)), metrics)
