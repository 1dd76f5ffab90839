"""Decode: attention of one token per lane over its lane."""

from __future__ import annotations

from collections.abc import Sequence as Items

import torch
import torch.nn.functional as F
from torch import Tensor

from rung.engine.kv_cache import KVCache
from rung.forward.slots import Slots


class DecodePlan:
    """Attention plan of one decoding step (the protocol `forward.attention.Plan`).

    Args:
        cache: where the lanes are. slots: of the lanes' tokens.
        chosen: the lanes of this step; None: the first ones, which need not be gathered.
    """

    one_token_per_lane = True

    def __init__(self, cache: KVCache, slots: Slots, chosen: Items[int] | None = None):
        self.cache, self.slots = cache, slots
        count = len(slots.of_token)
        at = list(range(count)) if chosen is None else list(chosen)
        lengths = cache.lengths[at]
        self.length = int(lengths.max()) + 1  # positions to look at, the new ones included
        self.positions = torch.from_numpy(lengths).to(cache.device)  # (B,)
        self.lanes = torch.tensor(at, device=cache.device)
        self.rows: slice | Tensor = slice(0, count) if chosen is None else self.lanes
        self._masks: dict[tuple[int | None, torch.dtype], Tensor] = {}
        self._places: dict[int, Tensor] = {}

    def attend(self, layer, q, k, v, scaling, window=None, softcap=None):
        """Attend: q (1, H, B, hd), k and v (1, Hkv, B, hd) -> (1, B, H, hd)."""
        batch, heads = len(self.lanes), q.shape[1]
        k, v = (x[0].transpose(0, 1).reshape(-1, x.shape[3]) for x in (k, v))  # (B * Hkv, hd)
        self.cache.write_rows(layer, self._placed(layer), k, v)
        keys = self.cache.k[layer][self.rows, :, : self.length]  # (B, Hkv, L, hd)
        values = self.cache.v[layer][self.rows, :, : self.length]
        # The heads that share a key stand as its queries, so keys are not repeated: (B, Hkv, G, hd).
        grouped = q[0].transpose(0, 1).unflatten(1, (keys.shape[1], -1))
        mask = self._mask(window, q.dtype)
        if softcap is None:
            out = F.scaled_dot_product_attention(grouped, keys, values, attn_mask=mask, scale=scaling)
        else:
            scores = torch.tanh(grouped @ keys.transpose(2, 3) * (scaling / softcap)) * softcap
            out = torch.softmax(scores + mask, -1, dtype=torch.float32).to(q.dtype) @ values
        return out.reshape(1, batch, heads, -1)

    def _placed(self, layer: int) -> Tensor:
        """Compute where this step's keys go, once for all layers of as many heads."""
        heads = self.cache.shapes[layer].heads
        if heads not in self._places:
            self._places[heads] = self.cache.places(layer, self.lanes, self.positions)
        return self._places[heads]

    def _mask(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """Make the mask (B, 1, 1, L) of 0 and -inf, once per step."""
        key = (window, dtype)
        if key not in self._masks:
            at = torch.arange(self.length, device=self.positions.device)
            hidden = at > self.positions[:, None]
            if window:
                hidden |= self.positions[:, None] - at >= window
            mask = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device)
            self._masks[key] = mask.masked_fill_(hidden, float("-inf"))[:, None, None]
        return self._masks[key]
