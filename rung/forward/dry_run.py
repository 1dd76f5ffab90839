"""Dry run: whether a base can be computed with an adapter, tried in place of asking for names."""

from __future__ import annotations

import dataclasses

import torch

from rung.forward import selfcheck
from rung.forward.adapter import Adapter
from rung.forward.bank import Bank
from rung.forward.probe import tokens
from rung.forward.trie import Sequence


@torch.no_grad()
def dry_run(bank: Bank, adapter: Adapter) -> str | None:
    """Why the base cannot be computed with an adapter, by a pass of three tokens; None where it can."""
    if adapter.classifier is not None or adapter.remote is not None:
        return None
    slot = bank.add(_moved(adapter, bank))
    try:
        trie = bank.trie([Sequence(tokens(bank, 3), slot=slot)])
        hidden = bank.forward(trie)[torch.from_numpy(trie.rows[0])]
        logits = bank.logits(hidden, [slot] * len(hidden))
    except selfcheck.FAULTS as fault:
        return selfcheck.reason(fault)
    finally:
        bank.remove(slot)
    return None if bool(logits.isfinite().all()) else "its answers are not finite"


def _moved(adapter: Adapter, bank: Bank) -> Adapter:
    """The adapter as training would move it: a base that finds ids by their embeddings cannot do so
    with others, which an adapter that begins with the base's own would not show."""
    table = bank.names(bank.model.get_input_embeddings().weight)
    own = {name: adapter.weights[name] * 1.01 for name in table if name in adapter.weights}
    return dataclasses.replace(adapter, weights={**adapter.weights, **own}) if own else adapter
