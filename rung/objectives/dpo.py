"""Direct preference optimisation: chosen replies gain on rejected ones, measured from a reference.

    rung tune coach --data pairs.jsonl --objective dpo --method lora

A reply's reward is beta times the sum of its tokens' log-probabilities, less the same sum of the
reference: the model that training starts from, with the parent's adapter or a fresh one in place. So
the first step's loss is ln 2 whatever the method. Pairs weigh alike, however long they are. Other
losses than the paper's sigmoid, in the conventions of TRL:

    ipo             squares the gap of mean log-ratios less 1 / (2 beta); arXiv 2310.12036 has sums
    hinge           max(0, 1 - gap of rewards), as SLiC (arXiv 2305.10425)
    robust          corrects for pairs that are swapped with probability --label-noise (2403.00409)
    sigmoid_norm    like sigmoid, with mean log-ratios in place of sums
    simpo           mean log-probabilities without a reference, their gap less --gamma (2405.14734)
    orpo            cross-entropy of the chosen reply, and --beta times its log-odds against the
                    rejected one, without a reference (2403.07691)

`simpo` is what TRL's CPOTrainer computes with cpo_alpha 0. `orpo`'s odds are those of TRL's
ORPOTrainer; its cross-entropy is the paper's, of the reply given the prompt and of each pair alike,
where TRL takes the mean over all tokens of a batch, the prompts' among them.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

from rung.config import knob
from rung.objectives import base
from rung.objectives.referenced import Referenced, ReferenceKnobs

if TYPE_CHECKING:
    from torch import Tensor

LOSSES = ("sigmoid", "ipo", "hinge", "robust", "sigmoid_norm", "simpo", "orpo")
MEANS = ("ipo", "sigmoid_norm", "simpo", "orpo")  # divide each log-ratio by its number of tokens
ALONE = ("simpo", "orpo")  # have no reference


@dataclasses.dataclass
class Config(ReferenceKnobs):
    group: ClassVar[str] = "dpo"

    beta: float = knob(0.1, "How strongly the reference holds: larger stays nearer to it.", above=0)
    loss: str = knob("sigmoid", "What is made of the gap between two rewards.", choices=LOSSES)
    label_noise: float = knob(
        0.0, "Share of pairs that are the wrong way round, for robust.", least=0, most=0.49
    )
    gamma: float = knob(0.5, "The gap that simpo asks for.", least=0, foreign=("simpo_gamma",))


class Objective(Referenced):
    summary = "prefer the chosen reply of a pair to the rejected one"
    paper = "Rafailov et al. 2023, arXiv 2305.18290"
    Config = Config
    defaults: ClassVar = {"epochs": 1.0}
    # At the rate of imitation a reply and its like are soon unlearnt, the chosen ones among them.
    rate = 0.1
    wants = "pairs"
    search: ClassVar = {"loss": ("sigmoid", "orpo")}

    def unread(self, config):
        if not isinstance(config, Config):  # of an objective that builds on this one
            return {}
        found = {}
        if config.loss != "robust":
            found["label_noise"] = "--loss robust"
        if config.loss != "simpo":
            found["gamma"] = "--loss simpo"
        if config.loss in ALONE:
            found["reference"] = "a loss that has one, which simpo and orpo have not"
        return found

    def rungs(self, method):
        # A base that begins from nothing has no replies to prefer.
        return [] if method.own_base else [{"objective": self.name}]

    def row(self, item, template):
        from rung.data.pairs import conversations
        from rung.forward.trie import Sequence

        sides = [template.render(one) for one in conversations(item)]
        sequences = tuple(Sequence(s.ids, s.supervised) for s in sides)
        return base.Row(sequences=sequences, weight=1.0, origin=item.origin)

    def prepare(self, rows, reference):
        if self.config.loss in ALONE:
            return rows
        sums = [[float(one.sum()) for one in row] for row in reference(rows)]
        return [
            dataclasses.replace(row, extra={**row.extra, "reference": found})
            for row, found in zip(rows, sums, strict=True)
        ]

    def loss(self, policy, rows):
        import torch

        from rung.forward.policy import Loss

        sums = policy.sums()
        known = [r.extra.get("reference", (0.0, 0.0)) for r in rows]
        fixed = torch.tensor(known, dtype=torch.float64)
        ratios = sums.view(-1, 2) - fixed.to(sums)  # (pairs, 2): chosen, rejected
        rewards = self.config.beta * ratios.detach()
        if self.config.loss in MEANS:
            lengths = torch.tensor([len(edges) for edges in policy.edges])
            ratios = ratios / lengths.view(-1, 2).to(ratios)
        if self.config.loss in ALONE:
            rewards = self.config.beta * ratios.detach()
        losses = self._losses(ratios[:, 0], ratios[:, 1])
        chosen, rejected = rewards.sum(0).tolist()
        metrics = {
            "reward_accuracy": float((rewards[:, 0] > rewards[:, 1]).sum()),
            "reward_margin": chosen - rejected,
            "reward_chosen": chosen,
            "reward_rejected": rejected,
        }
        return Loss(losses.sum(), float(len(rows)), metrics)

    def _losses(self, chosen: Tensor, rejected: Tensor) -> Tensor:
        """Loss of each pair by its log-ratios, (pairs,) each -> (pairs,)."""
        from torch.nn.functional import logsigmoid

        beta, noise = self.config.beta, self.config.label_noise
        gap = chosen - rejected
        if self.config.loss == "simpo":
            return -logsigmoid(beta * gap - self.config.gamma)
        if self.config.loss == "orpo":
            odds = gap - (_log1mexp(chosen) - _log1mexp(rejected))
            return -chosen - beta * logsigmoid(odds)
        if self.config.loss == "ipo":
            return (gap - 1 / (2 * beta)) ** 2
        if self.config.loss == "hinge":
            return (1 - beta * gap).relu()
        if self.config.loss == "robust":
            right, wrong = -logsigmoid(beta * gap), -logsigmoid(-beta * gap)
            return ((1 - noise) * right - noise * wrong) / (1 - 2 * noise)
        return -logsigmoid(beta * gap)


def _log1mexp(x: Tensor) -> Tensor:
    """log(1 - exp(x)) for x < 0, exact near 0 and far from it (Maechler 2012)."""
    import torch

    x = x.clamp(max=-1e-7)  # a reply that is certain has infinite odds
    near = x > -0.693
    return torch.where(
        near, torch.log(-torch.expm1(torch.where(near, x, -1.0))),
        torch.log1p(-torch.exp(torch.where(near, -1.0, x))),
    )  # fmt: skip
