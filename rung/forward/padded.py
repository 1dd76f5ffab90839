"""The same batch in padded rows, for bases whose attention cannot carry a trie (ALiBi, say).

Also the reference that the trie is held against when a bank attaches to a base.
"""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rung.forward.slots import Slots
from rung.forward.trie import Sequence, Trie

# Of the largest hidden value. float32 agrees to about 1e-6, and a wrong mask shows even in a base
# with random weights.
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-6}
COARSE = 0.05  # half precision rounds by more than that only where something is wrong


def forward(bank: Any, trie: Trie) -> Tensor:
    """Hidden states (T, d) of a trie, by unrolling its sequences into padded rows.

    Each slot is a batch of its own, since the length of what stands in front differs.
    """
    embeddings = bank.embed(trie.ids, Slots(trie.slots))
    parts, at = [], []
    for slot in Slots(trie.slots).present:
        paths = [p for p in trie.paths if int(trie.slots[p[0]]) == slot]
        hidden, rows = _slot(bank, trie, embeddings, slot, paths)
        parts.append(hidden)
        at.append(rows)
    rows = torch.from_numpy(np.concatenate(at)).to(bank.device)
    return torch.cat(parts)[torch.argsort(rows)]


def _slot(bank: Any, trie: Trie, embeddings: Tensor, slot: int, paths: list[np.ndarray]):
    width = max(len(p) for p in paths)
    rows = np.zeros((len(paths), width), dtype=np.int64)
    mask = np.zeros((len(paths), width), dtype=np.int64)
    for i, path in enumerate(paths):
        rows[i, : len(path)], mask[i, : len(path)] = path, 1
    out = _call(
        bank,
        embeddings[torch.from_numpy(rows).to(bank.device)],
        trie.positions[torch.from_numpy(rows)].to(bank.device),
        torch.from_numpy(mask).to(bank.device),
        slot,
    )
    # Each token of the trie takes its hidden state from the first row that passes through it.
    flat_rows, first = np.unique(np.where(mask > 0, rows, -1).reshape(-1), return_index=True)
    keep = flat_rows >= 0
    index = torch.from_numpy(first[keep]).to(bank.device)
    return out.reshape(-1, out.shape[-1])[index], flat_rows[keep]


def _call(bank: Any, embeddings: Tensor, positions: Tensor, mask: Tensor, slot: int) -> Tensor:
    """One padded batch of one slot through the base's own attention: (B, L, d) -> (B, L, d)."""
    batch, width = mask.shape
    bank.plan, bank.slots = None, Slots(np.full(batch * width, slot))
    kwargs: dict[str, Any] = {"use_cache": False}
    if "position_ids" in inspect.signature(bank.backbone.forward).parameters:
        kwargs["position_ids"] = positions
    adapter = bank.adapters.get(slot)
    if adapter is not None and adapter.keys_values is not None:
        kwargs["past_key_values"] = _cache(bank, adapter.keys_values, batch)
        kwargs["use_cache"] = True
        mask = torch.cat([mask.new_ones(batch, adapter.keys_values.shape[2]), mask], 1)
    return bank.backbone(inputs_embeds=embeddings, attention_mask=mask, **kwargs).last_hidden_state


def _cache(bank: Any, keys_values: Tensor, batch: int) -> Any:
    from transformers import DynamicCache

    cache = DynamicCache(config=bank.config)
    for layer, (k, v) in enumerate(keys_values.to(bank.dtype)):
        cache.update(
            k.transpose(0, 1)[None].expand(batch, -1, -1, -1),
            v.transpose(0, 1)[None].expand(batch, -1, -1, -1),
            layer,
        )
    return cache


@torch.no_grad()
def difference(bank: Any) -> str | None:
    """Hold the trie against padded rows on a small batch.

    Returns:
        None where they agree, else by how much they do not.
    """
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, bank.config.vocab_size, (12,), generator=generator).tolist()
    first, second = tuple(ids[:8]), tuple(ids[:4] + ids[8:])
    trie = bank.trie([Sequence(first), Sequence(second)])
    calls: list[int] = []
    ours = bank.forward(trie, lambda layer, k, v: calls.append(layer))
    if sorted(calls) != list(range(bank.config.num_hidden_layers)):
        return "not every layer attends through the shared interface"
    bank.model.set_attn_implementation(bank._own_attention)
    theirs = forward(bank, trie)
    bank.model.set_attn_implementation("rung")
    apart = float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-9))
    if not apart < TOLERANCE.get(ours.dtype, COARSE):
        return f"its attention differs on a trie by {apart:.2g}"
    return None
