"""Output layers: logits of a batch whose rows belong to several adapters, each through its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from rung.forward import token_rows
from rung.forward.backbone import Head, ModelHead
from rung.forward.slots import Slots

if TYPE_CHECKING:
    from rung.forward.adapter import Adapter
    from rung.forward.bank import Bank


def logits(bank: Bank, hidden: Tensor, slots: Slots) -> Tensor:
    """(N, d) and each row's slot -> (N, W), W the base's vocabulary with what adapters of these rows
    have added to it; what others have added is -inf in a row."""
    if bank.findings.head is not None:
        return bank.model_head().logits(hidden, slots)
    out = _of_weights(bank, hidden, slots)
    held = bank.token_rows(slots)
    return token_rows.widen(held, out, hidden, slots, bank.own_head()) if held else out


def head(bank: Bank, slot: int) -> Head | ModelHead:
    """The output layer of a slot."""
    if bank.findings.head is not None:
        return bank.model_head(slot)
    made, adapter = _head(bank, slot), bank.adapters.get(slot)
    made.rows = None if adapter is None else adapter.tokens
    return made


def _of_weights(bank: Bank, hidden: Tensor, slots: Slots) -> Tensor:
    """Logits of the base's vocabulary. All that share the base's own output layer go through it at
    once: its weights are read once."""
    own = [s for s in slots.present if _owns_weights(bank, s)]
    if not own:
        return _of_base(bank, hidden)
    if slots.only is not None:
        return _head(bank, slots.only).logits(hidden)
    shared = torch.from_numpy(~np.isin(slots.of_token, own)).to(hidden.device)
    first = _of_base(bank, hidden[shared])
    out = first.new_empty(len(hidden), first.shape[1])
    out[shared] = first
    for slot in own:
        out[slots.rows(slot)] = _head(bank, slot).logits(hidden[slots.rows(slot)])
    return out


def _of_base(bank: Bank, hidden: Tensor) -> Tensor:
    """Logits by the base's own output layer, by the fastest way that is there."""
    if torch.is_grad_enabled():
        return bank.own_head().logits(hidden)
    compiled = bank.__dict__.get("compiled")
    if compiled is not None and (found := compiled.logits(hidden)) is not None:
        return found
    return bank.own_head().logits(hidden) if bank.inference is None else bank.inference.logits(hidden)


def _owns_weights(bank: Bank, slot: int) -> bool:
    adapter = bank.adapters.get(slot)
    return adapter is not None and bool(adapter.weights)


def _head(bank: Bank, slot: int) -> Head:
    """The output layer of a slot over the base's vocabulary."""
    made, adapter = bank.own_head(), bank.adapters.get(slot)
    if adapter is not None and adapter.weights:
        made.weight = _own_of(bank, adapter, made.weight)
        if made.bias is not None:
            made.bias = _own_of(bank, adapter, made.bias)
    return made


def _own_of(bank: Bank, adapter: Adapter, parameter: Tensor) -> Tensor:
    """What an adapter has in place of the output layer's parameter, or of what that is tied to."""
    names = bank.names(parameter)
    out = bank.model.get_output_embeddings()
    names.sort(key=lambda n: bank.modules[n.rpartition(".")[0]] is not out)
    return next((adapter.weights[n] for n in names if n in adapter.weights), parameter)
