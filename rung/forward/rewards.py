"""Rewards of texts by a reward head, many in one pass; what texts share is computed once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from rung.forward.bank import Bank
from rung.forward.features import Frame, pooled
from rung.forward.packing import pack
from rung.forward.reward_head import RewardHead
from rung.forward.trie import Sequence as Tokens

MAX_PASS_TOKENS = 2048  # tokens of a trie in one pass


@torch.no_grad()
def rewards(bank: Bank, slot: int, head: RewardHead, texts: Sequence[Sequence[int]]) -> Tensor:
    """Score texts as ids, each read at the head's token: (N,) float32 or better, on the CPU.

    Args:
        slot: of the adapter that has the head.
    """
    if not texts:
        return torch.empty(0)
    closed = [head.closed(ids) for ids in texts]
    if head.boundary is not None:
        found = pooled(bank, closed, [head.boundary], Frame())
        return head.of(found[f"{head.boundary}.last"].to(head.weight.device)).cpu()
    scores = torch.empty(len(closed), dtype=torch.promote_types(bank.dtype, torch.float32))
    for chosen in pack([np.asarray(ids) for ids in closed], MAX_PASS_TOKENS):
        trie = bank.trie([Tokens(closed[i], slot=slot) for i in chosen])
        last = np.array([path[-1] for path in trie.rows])
        read, places = np.unique(last, return_inverse=True)
        states = bank.forward(trie, read=read)[torch.from_numpy(places).to(bank.device)]
        scores[chosen] = head.of(states).cpu()
    return scores
