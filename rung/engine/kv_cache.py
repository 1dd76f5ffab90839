"""KV cache: keys and values of running requests, one lane each, the lanes of a layer in one tensor.

Lanes 0 to B - 1 are always the running ones, so a step reads a slice and gathers nothing. Storage grows
by doubling and is given back when nobody runs. What no request has written is zero: a masked key has
weight 0, and 0 times whatever an earlier request left must be 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

MIN_POSITIONS = 64  # minimum number of positions of a lane

# n positions of all layers: of each shape that layers have, k (layers, heads, n, k_width), then v.
PageTensors = list[Tensor]


@dataclass(frozen=True)
class LayerShape:
    """Shapes of what one token leaves in one layer: k (heads, k_width), v (heads, v_width)."""

    heads: int
    k_width: int
    v_width: int


class KVCache:
    """Keys and values by lane and position.

    Lanes are resized layer by layer, so that at no time more than one layer stands in memory twice.

    Args:
        shapes: per layer. dtype, device: of the tensors.
        max_lanes: maximum number of lanes.
        budget: maximum number of bytes.
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
        self.lengths = np.zeros(max_lanes, dtype=np.int64)  # positions in use per lane
        self.reset()

    def reset(self) -> None:
        """Forget everything and give the memory back."""
        self.lanes, self.capacity = 0, 0
        self.k: list[Tensor] = []
        self.v: list[Tensor] = []
        self.lengths[:] = 0

    @property
    def position_bytes(self) -> int:
        """Bytes of one position in all layers."""
        numbers = sum(s.heads * (s.k_width + s.v_width) for s in self.shapes)
        return numbers * self.dtype.itemsize

    def fitting_size(self, lanes: int, capacity: int) -> tuple[int, int] | None:
        """Choose a size, (lanes, capacity), that holds so many lanes of so many positions.

        With room to grow where the budget allows it, and without what nobody needs any more where it
        does not; None where it forbids even that.
        """
        if lanes <= self.lanes and capacity <= self.capacity:
            return self.lanes, self.capacity
        more = max(lanes, self.lanes), max(capacity, self.capacity)
        for size in (
            (min(_power(more[0]), self.max_lanes), max(_power(more[1]), MIN_POSITIONS)),
            (more[0], _rounded(more[1])),
            (lanes, _rounded(capacity)),
            (lanes, capacity),
        ):
            if size[0] * size[1] * self.position_bytes <= self.budget:
                return size
        return None

    def resize(self, lanes: int, capacity: int) -> None:
        """Change the size to so many lanes of so many positions; what runs must fit in."""
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
        """Write N positions: lanes and at (N,) say where, k and v are (N, heads, width)."""
        self.k[layer][lanes, :, at] = k.to(self.dtype)
        self.v[layer][lanes, :, at] = v.to(self.dtype)

    def places(self, layer: int, lanes: Tensor, at: Tensor) -> Tensor:
        """Compute where `write_rows` puts N positions of a layer, lanes and at (N,): (N * heads,)."""
        heads = torch.arange(self.shapes[layer].heads, device=self.device)
        return ((lanes[:, None] * len(heads) + heads) * self.capacity + at[:, None]).flatten()

    def write_rows(self, layer: int, places: Tensor, k: Tensor, v: Tensor) -> None:
        """Write as `write` does, k and v (N * heads, width), where the places are known already."""
        self.k[layer].view(-1, k.shape[1]).index_copy_(0, places, k.to(self.dtype))
        self.v[layer].view(-1, v.shape[1]).index_copy_(0, places, v.to(self.dtype))

    def copy_out(self, lane: int, begin: int, end: int, page: int) -> list[PageTensors]:
        """Copy a lane's positions [begin, end) of every layer in pages of so many."""
        kinds = [
            torch.stack([kind[layer][lane, :, begin:end] for layer in layers])
            for layers in self._alike
            for kind in (self.k, self.v)
        ]
        return [
            [part.clone() for part in parts]
            for parts in zip(*(k.split(page, 2) for k in kinds), strict=True)
        ]

    def copy_in(self, lane: int, parts: list[PageTensors]) -> None:
        """Append to a lane what `copy_out` gave, one page behind the other."""
        begin = end = int(self.lengths[lane])
        kinds = [(layers, kind) for layers in self._alike for kind in (self.k, self.v)]
        for i, (layers, kind) in enumerate(kinds):
            whole = torch.cat([part[i] for part in parts], 2)
            end = begin + whole.shape[2]
            torch._foreach_copy_([kind[n][lane, :, begin:end] for n in layers], whole.unbind())
        self.lengths[lane] = end

    def shrink(self, lanes: int, capacity: int) -> None:
        """Give back memory where four times what so many lanes of so many positions need is held."""
        fewer = min(_power(lanes), self.max_lanes), max(_power(capacity), MIN_POSITIONS)
        if fewer[0] * fewer[1] * 4 <= self.lanes * self.capacity:
            self._resize(min(fewer[0], self.lanes), min(fewer[1], self.capacity))

    @property
    def size(self) -> int:
        """Bytes held."""
        return self.lanes * self.capacity * self.position_bytes

    def move(self, source: int, target: int) -> None:
        """Move a lane to the place of another, which is lost."""
        used = int(max(self.lengths[source], self.lengths[target]))
        for tensor in (*self.k, *self.v):
            tensor[target, :, :used] = tensor[source, :, :used]
        self.lengths[target] = self.lengths[source]

    def swap(self, a: int, b: int) -> None:
        """Exchange two lanes."""
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
        """Keep only a lane's first positions."""
        used = int(self.lengths[lane])
        if length < used:
            torch._foreach_zero_([t[lane, :, length:used] for t in (*self.k, *self.v)])
            self.lengths[lane] = length


def _rounded(n: int) -> int:
    """Round up to a multiple of MIN_POSITIONS."""
    return -(-n // MIN_POSITIONS) * MIN_POSITIONS


def _power(n: int) -> int:
    """Round up to a power of two."""
    return 1 << max(n - 1, 0).bit_length()
