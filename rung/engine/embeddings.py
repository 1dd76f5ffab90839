"""Embeddings of texts: the mean of the final hidden states, scaled to length 1."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Items

import torch
from torch import Tensor

from rung.forward.bank import Bank
from rung.forward.features import Means
from rung.forward.trie import Sequence

MAX_TOKENS = 2048  # maximum number of tokens in one pass


def batches(texts: Items[tuple[int, ...]]) -> Iterator[list[tuple[int, ...]]]:
    """Yield texts in order, as many at a time as one pass takes."""
    some: list[tuple[int, ...]] = []
    for ids in texts:
        if some and sum(map(len, some)) + len(ids) > MAX_TOKENS:
            yield some
            some = []
        some.append(tuple(ids))
    if some:
        yield some


def pooled(bank: Bank, slot: int, texts: Items[tuple[int, ...]]) -> Tensor:
    """Embed texts in one pass: (N, d) of float32 on the CPU."""
    trie = bank.trie([Sequence(ids, slot=slot) for ids in texts])
    means = Means(trie.rows, bank.device).of(bank.forward(trie).float())
    return torch.nn.functional.normalize(means, dim=-1).cpu()
