"""Dry run: whether a base can be computed with an adapter, tried in place of asking for names."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from rung.forward import selfcheck
from rung.forward.adapter import Adapter
from rung.forward.bank import Bank
from rung.forward.probe import tokens
from rung.forward.trie import Sequence


def dry_run(bank: Bank, adapter: Adapter) -> str | None:
    """Why the base cannot be computed with an adapter, by a pass of three tokens; None where it can."""
    if adapter.classifier is not None or adapter.remote is not None:
        return None
    slot = bank.add(_moved(adapter, bank))
    try:
        with torch.no_grad():
            logits = _logits(bank, slot)
        unread = _unread(bank, adapter, slot)
    except selfcheck.FAULTS as fault:
        return selfcheck.reason(fault)
    finally:
        bank.remove(slot)
    return unread or (None if bool(logits.isfinite().all()) else "its answers are not finite")


def _logits(bank: Bank, slot: int) -> Tensor:
    trie = bank.trie([Sequence(tokens(bank, 3), slot=slot)])
    hidden = bank.forward(trie)[torch.from_numpy(trie.rows[0])]
    return bank.logits(hidden, [slot] * len(hidden))


def _unread(bank: Bank, adapter: Adapter, slot: int) -> str | None:
    """Why a pass does not go by an adapter's weights: one of the base's that they replace is read all
    the same. Seen from what the answer's graph holds, without computing a gradient."""
    if not adapter.weights:
        return None
    named = dict(bank.model.named_parameters(remove_duplicate=False))
    own = {named[n]: n for n in adapter.weights if named[n].is_floating_point()}
    before = {p: p.requires_grad for p in own}
    try:
        for parameter in own:
            parameter.requires_grad_(True)
        with torch.enable_grad():
            read = _leaves(_logits(bank, slot)) & own.keys()
    finally:
        for parameter, wanted in before.items():
            parameter.requires_grad_(wanted)
    name = min((own[p] for p in read), default=None)
    return name and f"{name} is read in a way that cannot be told apart by adapter"


def _leaves(out: Tensor) -> set[Tensor]:
    """The tensors that a result would have gradients for."""
    waiting, seen, found = [out.grad_fn], set(), set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if (leaf := getattr(node, "variable", None)) is not None:
            found.add(leaf)
        waiting += [following for following, _ in node.next_functions]
    return found


def _moved(adapter: Adapter, bank: Bank) -> Adapter:
    """The adapter as training would move it: a base that finds ids by their embeddings cannot do so
    with others, which an adapter that begins with the base's own would not show."""
    table = bank.names(bank.model.get_input_embeddings().weight)
    own = {name: adapter.weights[name] * 1.01 for name in table if name in adapter.weights}
    return dataclasses.replace(adapter, weights={**adapter.weights, **own}) if own else adapter
