"""Kahneman-Tversky optimisation: wanted replies gain, unwanted ones lose, without being paired.

    rung tune coach --data rated.jsonl --objective kto --method lora

A reply's reward is beta times its log-ratio against the reference, as for dpo. It is compared with a
baseline: how far the policy has moved from the reference on replies to other prompts, an estimate of
the divergence that is never below 0 and passes no gradient on. Here it is taken over all rows of an
optimiser step, each prompt with the reply of the next row in the data that has another prompt; TRL
takes it over a device's batch. Pairs of a better and a worse reply count as one wanted and one
unwanted reply.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from rung.config import knob
from rung.objectives import base
from rung.objectives.referenced import Referenced, ReferenceKnobs

if TYPE_CHECKING:
    from rung.objectives.base import Row


@dataclasses.dataclass
class Config(ReferenceKnobs):
    group: ClassVar[str] = "kto"

    beta: float = knob(0.1, "How strongly the reference holds: larger stays nearer to it.", above=0)
    desirable_weight: float = knob(1.0, "What a wanted reply counts in the loss.", least=0)
    undesirable_weight: float = knob(1.0, "What an unwanted reply counts in the loss.", least=0)
    wanted_above: float = knob(0.5, "Replies rated above it are wanted, the others unwanted.")


class Objective(Referenced):
    summary = "make wanted replies likelier and unwanted ones less likely"
    paper = "Ethayarajh et al. 2024, arXiv 2402.01306"
    Config = Config
    defaults: ClassVar = {"epochs": 1.0}
    # At the rate of imitation a reply and its like are soon unlearnt, the chosen ones among them.
    rate = 0.1
    wants = "ratings"

    def rows(self, examples, template, limit):
        from rung.data.pairs import ratings

        rows, problems = super().rows(ratings(examples), template, limit)
        others = zip(rows, _of_other_prompts(rows), strict=True)
        return [_beside(row, other, limit) for row, other in others], problems

    def row(self, item, template):
        from rung.forward.trie import Sequence

        prompt = [{**m, "weight": 0} if m["role"] == "assistant" else m for m in item.messages[:-1]]
        one = template.render(dataclasses.replace(item, messages=(*prompt, item.messages[-1])))
        wanted = item.rating > self.config.wanted_above
        return base.Row(
            sequences=(Sequence(one.ids, one.supervised),), weight=1.0, origin=item.origin,
            extra={"wanted": wanted},
        )  # fmt: skip

    def prepare(self, rows, reference):
        known = reference([*rows, *_baselines(rows)])
        sums = [float(one[0].sum()) for one in known]
        both = zip(rows, sums[: len(rows)], sums[len(rows) :], strict=True)
        return [
            dataclasses.replace(row, extra={**row.extra, "reference": own, "other_reference": other})
            for row, own, other in both
        ]

    def settle(self, rows, logprobs):
        moved = [
            float(one[0].sum()) - row.extra["other_reference"]
            for row, one in zip(rows, logprobs(_baselines(rows)), strict=True)
        ]
        divergence = max(0.0, sum(moved) / max(1, len(moved)))
        return [dataclasses.replace(r, extra={**r.extra, "divergence": divergence}) for r in rows]

    def loss(self, policy, rows):
        import torch

        from rung.forward.policy import Loss

        sums = policy.sums()

        def column(name: str) -> Any:
            return torch.tensor([r.extra[name] for r in rows], dtype=torch.float64).to(sums)

        ratios, wanted = sums - column("reference"), column("wanted")
        sign = 2 * wanted - 1  # 1 for wanted, -1 for unwanted
        gains = torch.sigmoid(self.config.beta * sign * (ratios - column("divergence")))
        weights = torch.where(
            wanted > 0, self.config.desirable_weight, self.config.undesirable_weight
        ).to(gains)
        losses = weights * (1 - gains)
        rewards = self.config.beta * ratios.detach()
        metrics = {
            "reward_wanted_share": float(wanted.sum()),
            "reward_right": float((rewards * sign > 0).sum()),
            "divergence": float(column("divergence").sum()),
        }
        return Loss(losses.sum(), float(len(rows)), metrics)


def _of_other_prompts(rows: Sequence[Row]) -> list[Row]:
    """For each row the next one, around the end, whose prompt is another; any next one where none is.

    The two replies of a pair stand side by side: the rejected one, which training makes unlikely, would
    else be what the chosen one is held against.
    """
    prompts = [row.sequences[0].ids[: _start(row)].tobytes() for row in rows]
    count = len(rows)
    found = [(i + 1) % max(count, 1) for i in range(count)]
    last = next((i for i in range(count) if prompts[i] != prompts[found[i]]), None)
    if last is not None:
        for i in ((last - k) % count for k in range(1, count)):
            if prompts[i] == prompts[found[i]]:
                found[i] = found[found[i]]
    return [rows[i] for i in found]


def _start(row: Row) -> int:
    """Tokens of a row's prompt."""
    prompt = row.sequences[0]
    return int(prompt.supervised.argmax()) if prompt.supervised is not None else 0


def _beside(row: Row, other: Row, limit: int) -> Row:
    """A row with its prompt in front of another row's reply, cut at the limit."""
    import numpy as np

    from rung.forward.trie import Sequence

    prompt, reply = row.sequences[0], other.sequences[0]
    start = _start(row)
    said = reply.ids[reply.supervised] if reply.supervised is not None else reply.ids
    ids = np.concatenate([prompt.ids[:start], said])[: max(limit, start + 1)]
    mask = np.arange(len(ids)) >= start
    return dataclasses.replace(row, extra={**row.extra, "other": Sequence(ids, mask)})


def _baselines(rows: Sequence[Row]) -> list[Row]:
    """Every prompt with another prompt's reply, as rows to be scored."""
    return [base.Row(sequences=(r.extra["other"],), weight=1.0, origin=r.origin) for r in rows]
