"""What each layer of a base keeps of a token, found once by running some."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from rung.forward import selfcheck
from rung.forward.bank import Bank
from rung.forward.trie import Sequence

Shape = tuple[int, int, int]  # kv_heads, width of keys, width of values


def _once(look: Callable[[Bank], list[Shape]]) -> Callable[[Bank], list[Shape]]:
    """Look at a bank once while it is in memory: each look is a pass."""
    known: WeakKeyDictionary[Bank, list[Shape]] = WeakKeyDictionary()

    @wraps(look)
    def known_of(bank: Bank) -> list[Shape]:
        if bank not in known:
            known[bank] = look(bank)
        return known[bank]

    return known_of


@_once
@torch.no_grad()
def attended(bank: Bank) -> list[Shape]:
    """What the layers of a base that carries tries attend with."""
    found: dict[int, Shape] = {}

    def record(layer: int, k: Tensor, v: Tensor) -> None:
        found[layer] = (k.shape[1], k.shape[2], v.shape[2])

    bank.forward(bank.trie([Sequence((0,))]), record)
    return [found[layer] for layer in sorted(found)]


@_once
@torch.no_grad()
def cached(bank: Bank) -> list[Shape]:
    """What the layers of the base's real cache keep.

    Raises:
        NotImplementedError: where a layer keeps something else, or its cache is another layer's.
    """
    try:
        cache = getattr(bank.answer_tiny(use_cache=True), "past_key_values", None)
    except selfcheck.FAULTS as fault:
        raise NotImplementedError(f"its cache fails: {selfcheck.reason(fault)}") from None
    found = []
    for i, layer in enumerate(getattr(cache, "layers", ())):
        keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
        if keys is None or values is None or keys.dim() != 4 or keys.shape[2] != 2:
            raise NotImplementedError(f"layer {i} keeps no keys and values of its own")
        found.append((keys.shape[1], keys.shape[3], values.shape[3]))
    if len(found) != bank.config.num_hidden_layers:
        raise NotImplementedError("not every layer keeps keys and values of its own")
    return found
