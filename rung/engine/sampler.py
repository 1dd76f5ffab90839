"""Drawing tokens: greedy, temperature, top_p, for a whole batch at once.

A request's randomness is its own: one exponential number per vocabulary entry and token, from a
generator seeded by the request; the token is the argmax of `probability / number` (the Gumbel trick).
So an answer does not depend on what else is in the batch. Inverting the cumulative distribution with
one uniform number would be cheaper but hangs on the last digit: rounding that moves the borders of
49,000 tokens by 1e-6 changes every draw that falls among the improbable ones.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import torch
from torch import Tensor

from rung.types import Decoding

GREEDY_BELOW = 1e-5  # temperature; the scores would overflow before they differ from greedy
NUCLEUS = 512  # candidates looked at before a full sort


class Draw:
    """How one request draws its tokens, and the state of its randomness."""

    def __init__(self, decoding: Decoding):
        self.greedy = decoding.temperature < GREEDY_BELOW
        self.temperature = decoding.temperature
        self.top_p = decoding.top_p
        self._generator = torch.Generator()
        if not self.greedy:
            seed = secrets.randbits(63) if decoding.seed is None else decoding.seed
            self._generator.manual_seed(seed)

    def noise(self, size: int) -> Tensor:
        """(size,) exponential numbers, on the CPU so that every device draws the same."""
        return torch.empty(size).exponential_(generator=self._generator)


def draw(logits: Tensor, draws: Sequence[Draw]) -> Tensor:
    """(B, V) and each row's way of drawing -> (B,) token ids."""
    ids = logits.argmax(-1)
    rows = [i for i, d in enumerate(draws) if not d.greedy]
    if rows:
        at = torch.tensor(rows, device=logits.device)
        ids[at] = _sample(logits[at].float(), [draws[i] for i in rows])
    return ids


def _sample(logits: Tensor, draws: Sequence[Draw]) -> Tensor:
    temperature = torch.tensor([d.temperature for d in draws], device=logits.device)
    top_p = torch.tensor([d.top_p for d in draws], device=logits.device)
    probabilities = torch.softmax(logits / temperature[:, None], -1)
    narrow = top_p < 1
    if bool(narrow.any()):
        probabilities[narrow] = nucleus(probabilities[narrow], top_p[narrow])
    noise = torch.stack([d.noise(logits.shape[1]) for d in draws]).to(logits.device)
    return (probabilities / noise).argmax(-1)


def nucleus(probabilities: Tensor, top_p: Tensor) -> Tensor:
    """Zero all but the smallest set of most probable tokens that reaches `top_p`.

    Ties with the last one kept are kept too. (B, V) and (B,) -> (B, V).
    Source: Holtzman et al., arXiv 1904.09751.
    """
    vocabulary = probabilities.shape[1]
    best = probabilities.topk(min(NUCLEUS, vocabulary), -1).values
    if vocabulary > NUCLEUS and bool((best.sum(-1) < top_p).any()):
        best = probabilities.sort(-1, descending=True).values
    before = best.cumsum(-1) - best  # mass in front of each candidate
    kept = (before < top_p[:, None]).sum(-1).clamp(min=1)
    least = best.gather(1, kept[:, None] - 1)
    return torch.where(probabilities >= least, probabilities, 0.0)
