"""The same batch in padded rows, for bases whose attention cannot carry a trie (ALiBi, say).

Also the reference that the trie is held against when a bank attaches to a base.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rung.forward.backbone import Backbone
from rung.forward.layer_range import LayerRange
from rung.forward.slots import Slots
from rung.forward.trie import Trie


def forward(
    backbone: Backbone, trie: Trie, embeddings: Tensor, front: Mapping[int, Tensor] | None = None
) -> Tensor:
    """Hidden states (T, d) of a trie, by unrolling its sequences into padded rows.

    Each slot is a batch of its own, since the length of what stands in front differs; and each row,
    where the base's numbers depend on the longest.

    Args:
        embeddings: (T, d) of the trie's tokens, or their ids (T,) for a base that takes nothing else.
        front: keys and values in front by slot, each (layers, 2, P, kv_heads, hd).
    """
    parts, at = [], []
    for slot in Slots(trie.slots).present:
        for paths in _batches(backbone, [p for p in trie.paths if int(trie.slots[p[0]]) == slot]):
            rows, mask = _rows(paths)
            out = _call(backbone, trie, embeddings, rows, mask, slot, (front or {}).get(slot))
            # Each token of the trie takes its hidden state from the first row that passes through it.
            flat_rows, first = np.unique(np.where(mask > 0, rows, -1).reshape(-1), return_index=True)
            keep = flat_rows >= 0
            index = torch.from_numpy(first[keep]).to(backbone.device)
            parts.append(out.reshape(-1, out.shape[-1])[index])
            at.append(flat_rows[keep])
    rows_of_all = torch.from_numpy(np.concatenate(at)).to(backbone.device)
    return torch.cat(parts)[torch.argsort(rows_of_all)]


def states(
    layers: LayerRange, trie: Trie, embeddings: Tensor, wanted: Collection[int]
) -> dict[int, Tensor]:
    """Hidden states of a trie of the bare base at boundaries: boundary -> (T, d).

    Raises:
        NotImplementedError: when tokens belong to adapters, or where the base has no list of layers.
    """
    backbone = layers.backbone
    if any(slot >= 0 for slot in Slots(trie.slots).present):
        raise NotImplementedError(f"{backbone.why_not}: its adapters' rows have no shared states")
    layers.learn_answers(backbone.run_tiny)
    result: dict[int, Tensor] = {}
    for paths in _batches(backbone, trie.paths):
        rows, mask = _rows(paths)
        run = partial(_call, backbone, trie, embeddings, rows, mask, -1, None)
        for at, tensor in layers.capture(wanted, run).items():
            if at not in result:
                result[at] = tensor.new_empty(len(trie), tensor.shape[-1])
            for i, path in enumerate(paths):
                result[at][path] = tensor[i, : len(path)]
    return result


def _batches(backbone: Backbone, paths: list[np.ndarray]) -> Iterator[list[np.ndarray]]:
    """The rows that are computed together."""
    if backbone.findings.together is None:
        yield paths
        return
    for path in paths:
        with (
            torch.no_grad()
        ):  # what rotary positions keep of a longer row is forgotten with a short one
            backbone.run_tiny()
        yield [path]


def _rows(paths: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Paths as padded rows of a trie's tokens, and where they are real: (B, L) each."""
    width = max(len(p) for p in paths)
    rows, mask = (np.zeros((len(paths), width), dtype=np.int64) for _ in range(2))
    for i, path in enumerate(paths):
        rows[i, : len(path)], mask[i, : len(path)] = path, 1
    return rows, mask


def _call(
    backbone: Backbone,
    trie: Trie,
    embeddings: Tensor,
    rows: np.ndarray,
    mask: np.ndarray,
    slot: int,
    front: Tensor | None,
) -> Tensor:
    """One padded batch of one slot through the base's own attention -> (B, L, d)."""
    batch, width = mask.shape
    at, device = torch.from_numpy(rows), backbone.device
    acting = np.where(mask > 0, trie.acting.numpy()[rows], slot)
    backbone.plan, backbone.slots = None, Slots(acting.reshape(-1))
    kwargs: dict[str, Any] = {"use_cache": False}
    if takes_positions(backbone):
        kwargs["position_ids"] = trie.positions[at].to(device)
    real = torch.from_numpy(mask).to(device)
    if front is not None:
        kwargs |= {"past_key_values": _cache(backbone, front, batch), "use_cache": True}
        real = torch.cat([real.new_ones(batch, front.shape[2]), real], 1)
    rows_in = embeddings[at.to(embeddings.device)].to(device)
    kwargs["inputs_embeds" if rows_in.is_floating_point() else "input_ids"] = rows_in
    with backbone.own_weights(slot):
        return states_of(backbone.base_model(attention_mask=real, **kwargs))


def takes_positions(backbone: Backbone) -> bool:
    """Whether the base can be told where its tokens stand."""
    if backbone.findings.positions is not None:
        return False
    return "position_ids" in inspect.signature(backbone.base_model.forward).parameters


def states_of(out: Any) -> Tensor:
    """The hidden states (B, L, d) in what a base's model without output layer answers."""
    return out.last_hidden_state if hasattr(out, "last_hidden_state") else out[0]


def _cache(backbone: Backbone, keys_values: Tensor, batch: int) -> Any:
    from transformers import DynamicCache

    cache = DynamicCache(config=backbone.config)
    for layer, (k, v) in enumerate(keys_values.to(backbone.dtype)):
        cache.update(
            k.transpose(0, 1)[None].expand(batch, -1, -1, -1),
            v.transpose(0, 1)[None].expand(batch, -1, -1, -1),
            layer,
        )
    return cache
