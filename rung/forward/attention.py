"""Attention over a trie, registered with transformers as the implementation `rung`.

Rule: key `kv` is visible to query `q` when `start[kv] <= q < end[kv]` (and within the layer's sliding
window, measured in depth). For a token of the row `start` is its own index; keys that an adapter puts
in front are visible to all rows of its slot.

CPU: dense blocks, many in one call, see `blocks`; what all tokens see in front goes apart, see
`in_front`. CUDA: FlexAttention with the same rule as its mask. Elsewhere, or with soft-capped scores:
the same blocks one by one through plain torch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import cached_property
from typing import Any, Protocol
from weakref import WeakKeyDictionary, ref

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rung.forward import block_attention, shared_prefix_attention
from rung.forward.block_attention import Block, Heads
from rung.forward.slots import Slots
from rung.forward.trie import Trie


class Plan(Protocol):
    """How one forward pass treats its flat row of T tokens."""

    slots: Slots
    one_token_per_lane: bool  # whether token i is the next one of lane i, as in a decode step

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


class TriePlan:
    """Attention of a trie. Keys stand as [in front of the row | the row].

    Args:
        trie: the batch.
        front: per slot with keys and values in front, a tensor (layers, 2, P, kv_heads, hd).
        record: called with (layer, k, v), each (T, kv_heads, hd), for a cache to keep.
    """

    one_token_per_lane = False

    def __init__(self, trie: Trie, front: dict[int, Tensor] | None = None, record: Any = None):
        self.slots, self._owners = Slots(trie.acting), Slots(trie.slots)
        self.trie, self.record = trie, record
        self.front = {s: f for s, f in (front or {}).items() if s in self._owners.present}
        self._lay_keys(trie)
        self._together: list[Any] | None = None
        self._masks: dict[tuple, list[Tensor | None]] = {}
        self._flex: dict[tuple, Any] = {}

    def _lay_keys(self, trie: Trie) -> None:
        starts, ends, depths = [], [], []
        for slot, keys_values in self.front.items():
            rows = self._owners.rows(slot)
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
        self.blocks = block_attention.cut(self.start, self.end, self.depth, self.in_front)

    def attend(self, layer, q, k, v, scaling, window=None, softcap=None):  # noqa: D102
        if self.record is not None:
            self.record(layer, k[0].transpose(0, 1), v[0].transpose(0, 1))
        if self._meets_apart(q, v, window, softcap):
            return self._attend_apart(layer, q, k, v, scaling)
        if self.front:
            k, v = self._with_front(layer, k, 0), self._with_front(layer, v, 1)
        if q.device.type == "cuda" and softcap is None:
            return self._attend_flex(q, k, v, scaling, window)
        if q.device.type == "cpu" and softcap is None and q.shape[-1] == v.shape[-1]:
            calls, masks = self._calls(Heads.of(q, k), q.dtype, window)
            return block_attention.Attention.apply(q, k, v, scaling, calls, masks).transpose(1, 2)
        return self._attend_plain(q, k, v, scaling, window, softcap)

    def _with_front(self, layer: int, own: Tensor, which: int) -> Tensor:
        parts = [f[layer, which].to(own.dtype).transpose(0, 1)[None] for f in self.front.values()]
        return torch.cat([*parts, own], dim=2)

    def _meets_apart(self, q, v, window, softcap) -> bool:
        """Whether what is in front can be met apart from the row, and that pays."""
        plain = q.device.type == "cpu" and softcap is None and window is None
        plain = plain and q.shape[-1] == v.shape[-1] and not torch.is_grad_enabled()
        return plain and self.in_front >= shared_prefix_attention.MIN_KEYS and self._seen_by_all

    @cached_property
    def _seen_by_all(self) -> bool:
        """Whether every token of the row sees all that is in front."""
        start, end = self.start[: self.in_front], self.end[: self.in_front]
        return bool((start == 0).all() and (end == len(self.end) - self.in_front).all())

    def _attend_apart(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scaling: float) -> Tensor:
        (given,) = self.front.values()
        keys, values = (given[layer, i].to(k.dtype).transpose(0, 1)[None] for i in range(2))
        calls, masks = self._row._calls(Heads.of(q, k), q.dtype, None)
        return shared_prefix_attention.attend(
            q, (k, v), (keys, values), scaling, calls, masks
        ).transpose(1, 2)

    @cached_property
    def _row(self) -> TriePlan:
        """The same without what is in front."""
        return TriePlan(self.trie)

    def _visible(self, block: Block, window: int | None) -> np.ndarray:
        keys = np.concatenate([np.arange(a, b) for a, b in block.keys])
        rows = np.arange(block.first, block.last)[:, None]
        visible = (self.start[keys] <= rows) & (rows < self.end[keys])
        if window:
            depth = self.depth[self.in_front + block.first : self.in_front + block.last]
            visible &= depth[:, None] - self.depth[keys] < window
        return visible  # (queries, keys)

    def _calls(self, heads: Heads, dtype: torch.dtype, window: int | None) -> tuple[list, list]:
        """What goes together on a CPU, and the mask of each."""
        if self._together is None:
            self._together = block_attention.together(self.blocks)
        key = (window, dtype, heads.groups)
        if key not in self._masks:
            self._masks[key] = [
                call.mask(lambda b: self._visible(b, window), heads, dtype) for call in self._together
            ]
        return self._together, self._masks[key]

    def _attend_plain(self, q, k, v, scaling, window, softcap) -> Tensor:
        groups = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        outs = []
        for block in self.blocks:
            keys = torch.cat([k[:, :, a:b] for a, b in block.keys], 2)
            values = torch.cat([v[:, :, a:b] for a, b in block.keys], 2)
            queries = q[:, :, block.first : block.last]
            visible = torch.from_numpy(self._visible(block, window)).to(q.device)
            if softcap is None:
                out = F.scaled_dot_product_attention(
                    queries, keys, values, attn_mask=visible, scale=scaling
                )
            else:
                scores = torch.tanh(queries @ keys.transpose(2, 3) * scaling / softcap) * softcap
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


class Holder(Protocol):
    """Whose passes a model's attention goes by."""

    plan: Plan | None


# By attention module. Weak on both sides, since a holder holds its model.
_holders: WeakKeyDictionary[nn.Module, ref[Holder]] = WeakKeyDictionary()


def attach(model: nn.Module, holder: Holder) -> bool:
    """Have a model's attention go by a holder's plan once it is switched to `rung`.

    Returns:
        False where another holder has it; nothing is changed then.
    """
    modules = [m for m in model.modules() if hasattr(m, "layer_idx")]
    if any(m in _holders and _holders[m]() is not None for m in modules):
        return False
    _holders.update(dict.fromkeys(modules, ref(holder)))
    return True


def detach(model: nn.Module, holder: Holder) -> None:
    """Undo `attach`; does nothing where the holder does not have the model."""
    for module in model.modules():
        if module in _holders and _holders[module]() is holder:
            del _holders[module]


def attention(module, query, key, value, attention_mask, scaling=None, **kwargs):
    """The function transformers calls; the plan is that of the module's holder.

    Raises:
        NotImplementedError: for scores that the trie cannot carry (attention sinks).
    """
    if kwargs.get("s_aux") is not None:
        raise NotImplementedError("attention sinks")
    holder: Any = _holders[module]()
    plan: Plan = holder.plan
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    window = kwargs.get("sliding_window")
    if getattr(attention_mask, "window", window) != window:
        raise NotImplementedError("its windows stand in masks alone")
    layer = module.layer_idx
    return plan.attend(layer, query, key, value, scaling, window, kwargs.get("softcap")), None


FAR = 1 << 17  # tokens apart: beyond every window
QUERIES = (FAR, FAR + 12345)  # where what a mask shows is looked at; two, since chunks end somewhere


@contextlib.contextmanager
def noting_masks() -> Iterator[set[int | None]]:
    """Note the windows of the masks that a model asks transformers for while this lasts: how many
    tokens back a token sees, None for all. What the model is given in return carries its window too, so
    that `attention` can compare it with what the layer tells.

    Raises:
        NotImplementedError: from within the model's forward, for a mask that is no window.
    """
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

    windows: set[int | None] = set()

    def note(*args: Any, mask_function: Any, q_length: int, kv_length: int, **kwargs: Any) -> Tensor:
        windows.add(window := _window(mask_function))
        mask: Any = torch.ones(1, 1, q_length, kv_length, dtype=torch.bool).tril()
        mask.window = window
        return mask

    known = ALL_MASK_ATTENTION_FUNCTIONS._global_mapping
    known["rung"] = note
    try:
        yield windows
    finally:
        del known["rung"]


def _window(mask_function: Any) -> int | None:
    back = torch.arange(FAR)
    zero = torch.tensor(0)
    found = set()
    for at in QUERIES:
        seen = mask_function(zero, zero, torch.tensor(at), at - back).expand(FAR)
        count = int(seen.sum())
        if not bool(seen[:count].all()):
            raise NotImplementedError("a mask with gaps")
        found.add(None if count == FAR else count)
    if len(found) > 1:
        raise NotImplementedError("attention in chunks")
    return found.pop()


def register() -> None:
    """Make `rung` known to transformers."""
    from transformers import AttentionInterface

    AttentionInterface.register("rung", attention)
