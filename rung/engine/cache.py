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


@dataclass(frozen=True)
class LayerShape:
    """What one token leaves in one layer: k (heads, k_width), v (heads, v_width)."""

    heads: int
    k_width: int
    v_width: int


class Cache:
    """Key-value storage.

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

    def reserve(self, lanes: int, capacity: int) -> bool:
        """Make room for so many lanes of so many entries; False where the budget forbids it."""
        if lanes <= self.lanes and capacity <= self.capacity:
            return True
        lanes, capacity = max(lanes, self.lanes), max(capacity, self.capacity)
        roomy = (min(_power(lanes), self.max_lanes), max(_power(capacity), LEAST))
        for size in (roomy, (lanes, capacity)):
            if size[0] * size[1] * self.entry_bytes <= self.budget:
                self._grow(*size)
                return True
        return False

    def _grow(self, lanes: int, capacity: int) -> None:
        for layer, shape in enumerate(self.shapes):
            for kind, width in ((self.k, shape.k_width), (self.v, shape.v_width)):
                new = torch.zeros(
                    lanes, shape.heads, capacity, width, dtype=self.dtype, device=self.device
                )
                if layer < len(kind):
                    new[: self.lanes, :, : self.capacity] = kind[layer]
                    kind[layer] = new
                else:
                    kind.append(new)
        self.lanes, self.capacity = lanes, capacity

    def write(self, layer: int, lanes: Tensor, at: Tensor, k: Tensor, v: Tensor) -> None:
        """Put N entries: lanes and at (N,) say where, k and v are (N, heads, width)."""
        self.k[layer][lanes, :, at] = k.to(self.dtype)
        self.v[layer][lanes, :, at] = v.to(self.dtype)

    def move(self, source: int, target: int) -> None:
        """Let a lane stand in the place of another, which is lost."""
        used = int(max(self.lengths[source], self.lengths[target]))
        for tensor in (*self.k, *self.v):
            tensor[target, :, :used] = tensor[source, :, :used]
        self.lengths[target] = self.lengths[source]

    def clear(self, lane: int) -> None:
        """Empty a lane."""
        used = int(self.lengths[lane])
        for tensor in (*self.k, *self.v):
            tensor[lane, :, :used] = 0
        self.lengths[lane] = 0


def _power(n: int) -> int:
    """The smallest power of two that is not below n."""
    return 1 << max(n - 1, 0).bit_length()
