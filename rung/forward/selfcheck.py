"""The self-check: whoever computes a pass in a way of its own is held against the base's own forward.

What decides is this check on a small trie, not a list of architectures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from rung.forward.trie import Sequence, Trie

# Of the largest value. float32 agrees to about 1e-6, and a wrong mask shows even in a base with random
# weights; half precision rounds by more than 0.05 only where something is wrong.
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-6}
HALF_TOLERANCE = 0.05
# Where inputs are coded, a number that lies between two codes falls to either by its last bit.
CODED_TOLERANCE = 0.02
HALF_GRADIENT_TOLERANCE = 0.15  # a gradient gathers rounding from all layers; a wrong one differs by 1

# How transformers, and torch, tell that a base cannot be run in a way that was not meant for it.
FAULTS = (
    ValueError, NotImplementedError, TypeError, KeyError, AttributeError, RuntimeError, IndexError,
)  # fmt: skip

Pairs = Iterable[tuple[Tensor, Tensor]]  # (ours, the base's own), of one shape each


def sample(vocabulary: int) -> Trie:
    """A trie of 12 tokens: two sequences of 8 that share their first 4.

    Its ids are none of the special tokens at the start of a vocabulary, whose huge hidden states drown
    the rest of a pass in half precision's rounding.
    """
    ids = [(100 + 37 * i) % vocabulary for i in range(12)]
    return Trie.build([Sequence(ids[:8]), Sequence(ids[:4] + ids[8:])])


def fault(
    compute: Callable[[], Pairs], dtype: torch.dtype, gradients: bool = False, coded: bool = False
) -> str | None:
    """Why what `compute` gives cannot be relied on; None where every pair agrees.

    Args:
        gradients: compare vectors by their length; in half precision a single number of a gradient may
            be rounded by more than the tolerance.
        coded: the weights are codes, which may have been multiplied with coded inputs.
    """
    half = HALF_GRADIENT_TOLERANCE if gradients else HALF_TOLERANCE
    try:
        apart = max(_apart(ours, own, gradients) for ours, own in compute())
    except FAULTS as raised:
        return reason(raised)
    tolerance = max(TOLERANCE.get(dtype, half), CODED_TOLERANCE if coded else 0)
    return None if apart < tolerance else f"it differs by {apart:.2g}"


def reason(raised: BaseException) -> str:
    """What an exception of transformers or torch says, in one line of at most 200 characters."""
    return " ".join(str(raised).split())[:200] or type(raised).__name__


def _apart(ours: Tensor, own: Tensor, by_length: bool) -> float:
    ours, own = (x.detach() if x.dtype == torch.float64 else x.detach().float() for x in (ours, own))
    if by_length:
        return float((ours - own).norm() / own.norm().clamp(min=1e-12))
    return float((ours - own).abs().max() / own.abs().max().clamp(min=1e-9))
