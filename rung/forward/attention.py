"""Attention over a trie, registered with transformers as the implementation `rung`.

Rule: key `kv` is visible to query `q` when `start[kv] <= q < end[kv]` (and within the layer's sliding
window, measured in depth). For a token of the row `start` is its own index; keys that an adapter puts
in front are visible to all rows of its slot.

CPU: the row is cut into blocks of consecutive tokens. All that a block can see is its own tokens, the
ancestors of its first token, and what its slots put in front, so each block is one dense call of the
flash kernel. CUDA: FlexAttention with the same rule as its mask. Elsewhere, or with soft-capped
scores: the same blocks through plain torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rung.forward.slots import Slots
from rung.forward.trie import Trie

BLOCK = 256  # tokens; measured: below 128 the calls cost, above 512 the masked part does


class Plan(Protocol):
    """How one forward pass treats its flat row of T tokens."""

    slots: Slots

    def attend(
        self,
        layer: int,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        scaling: float,
        window: int | None,
        softcap: float | None,
    ) -> Tensor:
        """q (1, H, T, hd), k and v (1, Hkv, T, hd) -> (1, T, H, hd)."""
        ...  # fmt: skip


@dataclass(frozen=True)
class Block:
    """Queries [first, last) and the ranges of keys that they can see between them."""

    first: int
    last: int
    keys: tuple[tuple[int, int], ...]


class TriePlan:
    """Attention of a trie. Keys stand as [in front of the row | the row].

    Args:
        trie: the batch.
        front: per slot with keys and values in front, a tensor (layers, 2, P, kv_heads, hd).
        record: called with (layer, k, v), each (T, kv_heads, hd), for a cache to keep.
    """

    def __init__(self, trie: Trie, front: dict[int, Tensor] | None = None, record: Any = None):
        self.slots = Slots(trie.slots)
        self.record = record
        self.front = {s: f for s, f in (front or {}).items() if s in self.slots.present}
        self._lay_keys(trie)
        self._masks: dict[tuple, Tensor | None] = {}
        self._flex: dict[tuple, Any] = {}

    def _lay_keys(self, trie: Trie) -> None:
        starts, ends, depths = [], [], []
        for slot, keys_values in self.front.items():
            rows = self.slots.rows(slot)
            if not isinstance(rows, slice):
                raise ValueError("a trie keeps the tokens of one slot together")  # noqa: TRY004
            n = keys_values.shape[2]
            starts.append(np.full(n, rows.start))
            ends.append(np.full(n, rows.stop))
            depths.append(np.arange(n))
        self.in_front = sum(len(s) for s in starts)
        end, positions = trie.end.cpu().numpy(), trie.positions.cpu().numpy()
        self.start = np.concatenate([*starts, np.arange(len(end))])
        self.end = np.concatenate([*ends, end])
        self.depth = np.concatenate([*depths, positions])
        self.blocks = _cut(self.start, self.end, self.in_front)

    def attend(self, layer, q, k, v, scaling, window=None, softcap=None):  # noqa: D102
        if self.record is not None:
            self.record(layer, k[0].transpose(0, 1), v[0].transpose(0, 1))
        if self.front:
            k, v = self._with_front(layer, k, 0), self._with_front(layer, v, 1)
        if q.device.type == "cuda" and softcap is None:
            return self._attend_flex(q, k, v, scaling, window)
        if q.device.type == "cpu" and softcap is None and q.shape[-1] == v.shape[-1]:
            masks = [self._mask(b, q, window) for b in self.blocks]
            out = _CpuBlocks.apply(q, k, v, scaling, self.blocks, masks)
            return out.transpose(1, 2)
        return self._attend_plain(q, k, v, scaling, window, softcap)

    def _with_front(self, layer: int, own: Tensor, which: int) -> Tensor:
        parts = [f[layer, which].to(own.dtype).transpose(0, 1)[None] for f in self.front.values()]
        return torch.cat([*parts, own], dim=2)

    def _visible(self, block: Block, window: int | None) -> np.ndarray:
        keys = np.concatenate([np.arange(a, b) for a, b in block.keys])
        rows = np.arange(block.first, block.last)[:, None]
        visible = (self.start[keys] <= rows) & (rows < self.end[keys])
        if window:
            depth = self.depth[self.in_front + block.first : self.in_front + block.last]
            visible &= depth[:, None] - self.depth[keys] < window
        return visible  # (queries, keys)

    def _mask(self, block: Block, like: Tensor, window: int | None) -> Tensor | None:
        """(1, 1, queries, keys) of 0 and -inf, or None where plain causal attention is meant."""
        key = (block.first, window, like.dtype)
        if key not in self._masks:
            visible = self._visible(block, window)
            square = visible.shape[0] == visible.shape[1]
            if square and bool((visible == np.tri(len(visible), dtype=bool)).all()):
                self._masks[key] = None
            else:
                mask = torch.zeros(visible.shape, dtype=like.dtype)
                mask.masked_fill_(torch.from_numpy(~visible), float("-inf"))
                self._masks[key] = mask.to(like.device)[None, None]
        return self._masks[key]

    def _attend_plain(self, q, k, v, scaling, window, softcap) -> Tensor:
        groups = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        outs = []
        for block in self.blocks:
            keys = torch.cat([k[:, :, a:b] for a, b in block.keys], 2)
            values = torch.cat([v[:, :, a:b] for a, b in block.keys], 2)
            queries = q[:, :, block.first : block.last]
            mask = self._mask(block, q, window)
            if softcap is None:
                out = F.scaled_dot_product_attention(
                    queries, keys, values, attn_mask=mask, is_causal=mask is None, scale=scaling
                )
            else:
                scores = torch.tanh(queries @ keys.transpose(2, 3) * scaling / softcap) * softcap
                visible = torch.from_numpy(self._visible(block, window)).to(q.device)
                scores = scores.masked_fill(~visible, float("-inf"))
                out = torch.softmax(scores, -1, dtype=torch.float32).to(q.dtype) @ values
            outs.append(out)
        return torch.cat(outs, 2).transpose(1, 2)

    def _attend_flex(self, q, k, v, scaling, window) -> Tensor:
        from torch.nn.attention.flex_attention import create_block_mask

        key = (window, q.device)
        if key not in self._flex:
            mask_rule = self.rule(q.device, window)
            self._flex[key] = create_block_mask(
                mask_rule, None, None, q.shape[2], k.shape[2], device=q.device
            )
        out = _flex()(
            q, k, v, block_mask=self._flex[key], scale=scaling, enable_gqa=q.shape[1] != k.shape[1]
        )
        return out.transpose(1, 2)

    def rule(self, device: torch.device | str, window: int | None = None) -> Any:
        """The visibility rule as a FlexAttention mask function."""
        start, end, depth = (torch.from_numpy(a).to(device) for a in (self.start, self.end, self.depth))
        own = depth[self.in_front :]

        def visible(b, h, q, kv):
            seen = (start[kv] <= q) & (q < end[kv])
            return seen & (own[q] - depth[kv] < window) if window else seen

        return visible


_compiled_flex: Any = None


def _flex() -> Any:
    """FlexAttention, compiled once for all shapes."""
    global _compiled_flex
    if _compiled_flex is None:
        from torch.nn.attention.flex_attention import flex_attention

        _compiled_flex = torch.compile(flex_attention, dynamic=True)
    return _compiled_flex


def _cut(start: np.ndarray, end: np.ndarray, in_front: int) -> list[Block]:
    """Cut the row into blocks of whole segments where they fit, and find each block's keys.

    A segment is a run in which each token is the parent of the next.
    """
    own_end = end[in_front:]
    length = len(own_end)
    # A token starts a segment where the token before it ended a branch.
    heads = [0] + [i for i in range(1, length) if own_end[i - 1] == i] + [length]
    cuts = [0]
    for a, b in zip(heads[:-1], heads[1:], strict=True):
        if b - cuts[-1] > BLOCK and a > cuts[-1]:
            cuts.append(a)
        while b - cuts[-1] > BLOCK:
            cuts.append(cuts[-1] + BLOCK)
    if cuts[-1] != length:
        cuts.append(length)
    blocks = []
    for first, last in zip(cuts[:-1], cuts[1:], strict=True):
        front = (start[:in_front] < last) & (end[:in_front] > first)
        before = own_end[:first] > first
        seen = np.concatenate([front, before, np.ones(last - first, dtype=bool)])
        blocks.append(Block(first, last, _ranges(seen)))
    return blocks


def _ranges(chosen: np.ndarray) -> tuple[tuple[int, int], ...]:
    """The runs of True as (start, stop)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], chosen, [False]]).astype(np.int8)))
    return tuple((int(a), int(b)) for a, b in edges.reshape(-1, 2))


def _gather(x: Tensor, ranges: tuple[tuple[int, int], ...]) -> Tensor:
    parts = [x[:, :, a:b] for a, b in ranges]
    return parts[0] if len(parts) == 1 else torch.cat(parts, 2)


class _CpuBlocks(torch.autograd.Function):
    """All blocks through torch's CPU flash kernel, with one backward that adds in place.

    Through autograd each block's slice of the keys would cost a full-size zero tensor. Grouped heads
    become the batch dimension, with keys expanded by stride 0 instead of copied.
    """

    @staticmethod
    def forward(ctx, q, k, v, scaling, blocks, masks):  # noqa: D102
        heads, kv_heads = q.shape[1], k.shape[1]
        groups = heads // kv_heads
        out = q.new_empty(1, q.shape[2], heads, v.shape[-1]).transpose(1, 2)
        grouped = _group(q, kv_heads, groups)
        target = _group(out, kv_heads, groups)
        lses = []
        for block, mask in zip(blocks, masks, strict=True):
            part, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                grouped[:, :, block.first : block.last],
                _gather(k, block.keys).expand(groups, -1, -1, -1),
                _gather(v, block.keys).expand(groups, -1, -1, -1),
                0.0, mask is None, attn_mask=mask, scale=scaling,
            )  # fmt: skip
            target[:, :, block.first : block.last] = part
            lses.append(lse)
        if ctx is not None:
            ctx.save_for_backward(q, k, v, out)
            ctx.rest = (scaling, blocks, masks, lses, groups)
        return out

    @staticmethod
    def backward(ctx, grad):  # noqa: D102
        q, k, v, out = ctx.saved_tensors
        scaling, blocks, masks, lses, groups = ctx.rest
        kv_heads = k.shape[1]
        gq = q.new_empty(1, q.shape[2], q.shape[1], q.shape[3]).transpose(1, 2)
        gk, gv = torch.zeros_like(k), torch.zeros_like(v)
        parts = [_group(x, kv_heads, groups) for x in (grad, q, out, gq)]
        for block, mask, lse in zip(blocks, masks, lses, strict=True):
            g, qs, o, gqs = (p[:, :, block.first : block.last] for p in parts)
            dq, dk, dv = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                g, qs,
                _gather(k, block.keys).expand(groups, -1, -1, -1),
                _gather(v, block.keys).expand(groups, -1, -1, -1),
                o, lse, 0.0, mask is None, attn_mask=mask, scale=scaling,
            )  # fmt: skip
            gqs.copy_(dq)
            _scatter(gk, dk, block.keys)
            _scatter(gv, dv, block.keys)
        return gq, gk, gv, None, None, None


def _group(x: Tensor, kv_heads: int, groups: int) -> Tensor:
    """(1, kv_heads * groups, T, hd) -> a view (groups, kv_heads, T, hd)."""
    return x[0].unflatten(0, (kv_heads, groups)).transpose(0, 1)


def _scatter(into: Tensor, grad: Tensor, ranges: tuple[tuple[int, int], ...]) -> None:
    summed, at = grad.sum(0, keepdim=True), 0
    for a, b in ranges:
        into[:, :, a:b] += summed[:, :, at : at + b - a]
        at += b - a


def attention(module, query, key, value, attention_mask, scaling=None, **kwargs):
    """The function transformers calls; the plan stands on the module's bank.

    Raises:
        NotImplementedError: for scores that the trie cannot carry (attention sinks).
    """
    if kwargs.get("s_aux") is not None:
        raise NotImplementedError("attention sinks")
    plan: Plan = module.rung_bank.plan
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    window = kwargs.get("sliding_window")
    layer = module.layer_idx
    return plan.attend(layer, query, key, value, scaling, window, kwargs.get("softcap")), None


def register() -> None:
    """Make `rung` known to transformers."""
    from transformers import AttentionInterface

    AttentionInterface.register("rung", attention)
