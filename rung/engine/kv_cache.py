"""Keys and values of running requests: one lane each, the lanes of a layer in one tensor.

Lanes 0 to B - 1 are always the running ones, so a step reads a slice and gathers nothing. Storage grows
by doubling and is given back when nobody runs. What no request has written is zero: a masked key has
weight 0, and 0 times whatever an earlier request left must be 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

LEAST = 64  # entries of a lane

# Entries of all layers: of each shape that layers have its k (layers, heads, n, k_width), then its v.
Entries = list[Tensor]


@dataclass(frozen=True)
class LayerShape:
    """What one token leaves in one layer: k (heads, k_width), v (heads, v_width)."""

    heads: int
    k_width: int
    v_width: int


class KVCache:
    """Key-value storage.

    Lanes are resized layer by layer, so that at no time more than one layer stands in memory twice.

    Args:
        shapes: per layer. dtype, device: of the tensors.
        max_lanes: lanes at most.
        budget: bytes at most.
    """

    def __init__(
        self,
        shapes: list[LayerShape],
        dtype: torch.dtype,
        device: torch.device,
        max_lanes: int,
        budget: int,
    ):
        self.shapes, self.dtype, self.device = shapes, dtype, device
        self.max_lanes, self.budget = max_lanes, budget
        self._alike = [[i for i, s in enumerate(shapes) if s == one] for one in dict.fromkeys(shapes)]
        self.lengths = np.zeros(max_lanes, dtype=np.int64)  # entries in use per lane
        self.reset()

    def reset(self) -> None:
        """Forget everything and give the memory back."""
        self.lanes, self.capacity = 0, 0
        self.k: list[Tensor] = []
        self.v: list[Tensor] = []
        self.lengths[:] = 0

    @property
    def entry_bytes(self) -> int:
        """What one token takes in all layers."""
        numbers = sum(s.heads * (s.k_width + s.v_width) for s in self.shapes)
        return numbers * self.dtype.itemsize

    def room(self, lanes: int, capacity: int) -> tuple[int, int] | None:
        """The size, (lanes, capacity), that holds so many lanes of so many entries.

        With room to grow where the budget allows it, and without what nobody needs any more where it
        does not; None where it forbids even that.
        """
        if lanes <= self.lanes and capacity <= self.capacity:
            return self.lanes, self.capacity
        more = max(lanes, self.lanes), max(capacity, self.capacity)
        for size in (
            (min(_power(more[0]), self.max_lanes), max(_power(more[1]), LEAST)),
            (more[0], _rounded(more[1])),
            (lanes, _rounded(capacity)),
            (lanes, capacity),
        ):
            if size[0] * size[1] * self.entry_bytes <= self.budget:
                return size
        return None

    def resize(self, lanes: int, capacity: int) -> None:
        """Hold so many lanes of so many entries; what runs must fit in."""
        if (lanes, capacity) != (self.lanes, self.capacity):
            self._resize(lanes, capacity)

    def _resize(self, lanes: int, capacity: int) -> None:
        kept, used = min(lanes, self.lanes), min(capacity, self.capacity)
        for layer, shape in enumerate(self.shapes):
            for kind, width in ((self.k, shape.k_width), (self.v, shape.v_width)):
                new = torch.zeros(
                    lanes, shape.heads, capacity, width, dtype=self.dtype, device=self.device
                )
                if layer < len(kind):
                    new[:kept, :, :used] = kind[layer][:kept, :, :used]
                    kind[layer] = new
                else:
                    kind.append(new)
        self.lanes, self.capacity = lanes, capacity

    def write(self, layer: int, lanes: Tensor, at: Tensor, k: Tensor, v: Tensor) -> None:
        """Put N entries: lanes and at (N,) say where, k and v are (N, heads, width)."""
        self.k[layer][lanes, :, at] = k.to(self.dtype)
        self.v[layer][lanes, :, at] = v.to(self.dtype)

    def places(self, layer: int, lanes: Tensor, at: Tensor) -> Tensor:
        """(N * heads,): where `write_rows` puts N entries of a layer, lanes and at (N,) say which."""
        heads = torch.arange(self.shapes[layer].heads, device=self.device)
        return ((lanes[:, None] * len(heads) + heads) * self.capacity + at[:, None]).flatten()

    def write_rows(self, layer: int, places: Tensor, k: Tensor, v: Tensor) -> None:
        """As `write`, k and v (N * heads, width), where the places are known already."""
        self.k[layer].view(-1, k.shape[1]).index_copy_(0, places, k.to(self.dtype))
        self.v[layer].view(-1, v.shape[1]).index_copy_(0, places, v.to(self.dtype))

    def copy_out(self, lane: int, begin: int, end: int, page: int) -> list[Entries]:
        """A lane's entries [begin, end) of every layer in pages of so many, as tensors of their own."""
        kinds = [
            torch.stack([kind[layer][lane, :, begin:end] for layer in layers])
            for layers in self._alike
            for kind in (self.k, self.v)
        ]
        return [
            [part.clone() for part in parts]
            for parts in zip(*(k.split(page, 2) for k in kinds), strict=True)
        ]

    def copy_in(self, lane: int, parts: list[Entries]) -> None:
        """Append to a lane what `copy_out` gave, one part behind the other."""
        begin = end = int(self.lengths[lane])
        kinds = [(layers, kind) for layers in self._alike for kind in (self.k, self.v)]
        for i, (layers, kind) in enumerate(kinds):
            whole = torch.cat([part[i] for part in parts], 2)
            end = begin + whole.shape[2]
            torch._foreach_copy_([kind[n][lane, :, begin:end] for n in layers], whole.unbind())
        self.lengths[lane] = end

    def shrink(self, lanes: int, capacity: int) -> None:
        """Give memory back where four times what so many lanes of so many entries need is held."""
        fewer = min(_power(lanes), self.max_lanes), max(_power(capacity), LEAST)
        if fewer[0] * fewer[1] * 4 <= self.lanes * self.capacity:
            self._resize(min(fewer[0], self.lanes), min(fewer[1], self.capacity))

    @property
    def size(self) -> int:
        """Bytes held."""
        return self.lanes * self.capacity * self.entry_bytes

    def move(self, source: int, target: int) -> None:
        """Let a lane stand in the place of another, which is lost."""
        used = int(max(self.lengths[source], self.lengths[target]))
        for tensor in (*self.k, *self.v):
            tensor[target, :, :used] = tensor[source, :, :used]
        self.lengths[target] = self.lengths[source]

    def swap(self, a: int, b: int) -> None:
        """Let two lanes change places."""
        used = int(max(self.lengths[a], self.lengths[b]))
        for tensor in (*self.k, *self.v):
            kept = tensor[a, :, :used].clone()
            tensor[a, :, :used] = tensor[b, :, :used]
            tensor[b, :, :used] = kept
        self.lengths[[a, b]] = self.lengths[[b, a]]

    def clear(self, lane: int) -> None:
        """Empty a lane."""
        self.cut(lane, 0)

    def cut(self, lane: int, length: int) -> None:
        """Keep only a lane's first entries."""
        used = int(self.lengths[lane])
        if length < used:
            torch._foreach_zero_([t[lane, :, length:used] for t in (*self.k, *self.v)])
            self.lengths[lane] = length


def _rounded(n: int) -> int:
    """The smallest multiple of LEAST that is not below n."""
    return -(-n // LEAST) * LEAST


def _power(n: int) -> int:
    """The smallest power of two that is not below n."""
    return 1 << max(n - 1, 0).bit_length()
