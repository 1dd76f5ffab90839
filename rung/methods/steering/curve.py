"""Effect and damage of a steering vector, by strength."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rung.forward.adapter import Adapter
from rung.forward.packing import common_prefix
from rung.forward.steer import SteerOp
from rung.forward.trie import Sequence as Row
from rung.methods import base

PAIRS_AT_ONCE = 4  # whose logits are held


@dataclass(frozen=True)
class Point:
    """One strength.

    Attributes:
        preference: share of pairs whose better side is the likelier one.
        margin: mean log-probability of the better side less that of the worse, in nats.
        perplexity: of the beginnings that both sides share.
    """

    strength: float
    preference: float
    margin: float
    perplexity: float

    @property
    def told(self) -> str:
        return (
            f"strength {self.strength:g}: preference {self.preference:.3f}, margin {self.margin:+.3f} "
            f"nats, perplexity {self.perplexity:.4g}"
        )


def at_strength(adapter: Adapter, strength: float) -> Adapter:
    """Make an adapter of the same vectors at another strength."""
    ops = {
        n: SteerOp(op.vector, strength) for n, op in adapter.linear.items() if isinstance(op, SteerOp)
    }
    return Adapter(linear=ops)


def curve(
    study: base.Study, sides: Sequence[tuple[tuple[int, ...], tuple[int, ...]]], adapter: Adapter,
    strengths: Sequence[float],
) -> list[Point]:  # fmt: skip
    """Measure preference and perplexity of held-out pairs at several strengths.

    Args:
        sides: (chosen, rejected) token ids.
    """
    from rung.errors import Interrupted

    found = []
    for strength in sorted(set(strengths)):
        slot = study.bank.add(at_strength(adapter, strength).to(study.bank.device))
        margins, lost, tokens = [], 0.0, 0
        try:
            for start in range(0, len(sides), PAIRS_AT_ONCE):
                if study.stopping():
                    raise Interrupted
                for chosen, rejected, shared in _scored(study, sides[start:][:PAIRS_AT_ONCE], slot):
                    margins.append(float(chosen[shared:].sum() - rejected[shared:].sum()))
                    lost, tokens = lost - float(chosen[:shared].sum()), tokens + shared
        finally:
            study.bank.remove(slot)
        right = sum(m > 0 for m in margins) / len(margins)
        perplexity = math.exp(min(lost / max(1, tokens), 700.0))  # e**709 is the largest float
        found.append(Point(strength, right, sum(margins) / len(margins), perplexity))
    return found


@torch.no_grad()
def _scored(
    study: base.Study, sides: Sequence[tuple[tuple[int, ...], tuple[int, ...]]], slot: int
) -> list[tuple[Tensor, Tensor, int]]:
    """Log-probabilities of each side's tokens but the first, and how many of them are shared."""
    bank = study.bank
    trie = bank.trie([Row(ids, slot=slot) for pair in sides for ids in pair])
    hidden = bank.forward(trie)
    each = []
    for ids, path in zip((ids for pair in sides for ids in pair), trie.rows, strict=True):
        at = torch.as_tensor(path[:-1])
        logits = bank.logits(hidden[at], [slot] * len(at)).float().log_softmax(-1)
        next_ids = torch.tensor(ids[1:], device=logits.device)[:, None]
        each.append(logits.gather(1, next_ids)[:, 0].cpu())
    return [
        (each[2 * i], each[2 * i + 1], max(0, common_prefix(*pair) - 1)) for i, pair in enumerate(sides)
    ]
