"""LoRA weights by lane, for steps in which many lanes have an adapter of their own.

Multiplied as one, the adapters of a step cost lanes times adapters. Here each lane's weights stand in
buffers at its index, so a projection of all lanes is two batched products, whoever they belong to. A
lane's weights are copied when another adapter comes into it, which is about once an answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rung.forward.lora import LoraOp

MAX_BYTES = 1 << 30  # of the buffers
Names = Sequence[dict[str, list[str]]]  # per layer and group the modules' names


@dataclass
class Group:
    """One group of projections in one layer; those that no adapter changes have no place.

    Attributes:
        a: (lanes, R, d_in), R the ranks of all its projections. b: per projection (lanes, r, d_out),
            times its adapter's scale; None where no adapter changes it.
    """

    a: Tensor
    b: list[Tensor | None]

    def __call__(self, x: Tensor, y: Tensor, widths: Sequence[int]) -> None:
        """Add to y (B, sum of widths) what x (B, d_in) brings."""
        count, at, column = len(x), 0, 0
        hidden = torch.bmm(x[:, None], self.a[:count].transpose(1, 2))  # (B, 1, R)
        for width, b in zip(widths, self.b, strict=True):
            if b is not None:
                mine = hidden[:, :, column : column + b.shape[1]]
                y[:, at : at + width] += torch.bmm(mine, b[:count])[:, 0]
                column += b.shape[1]
            at += width


class LaneWeights:
    """The buffers.

    Args:
        names: of the projections. widths: (d_in, d_out) by name.
        dtype, device: of the base.
    """

    def __init__(
        self,
        names: Names,
        widths: dict[str, tuple[int, int]],
        dtype: torch.dtype,
        device: torch.device,
        max_bytes: int = MAX_BYTES,
    ):
        self._max_bytes = max_bytes
        self._names, self._widths, self._dtype, self._device = names, widths, dtype, device
        self.clear()

    def clear(self) -> None:
        """Give the memory back."""
        self.layers: list[dict[str, Group]] = []
        self._held: list[Any] = []  # whose weights each lane has
        self._changed: frozenset[str] = frozenset()
        self._rank = 0

    def hold(self, lanes: Sequence[Any]) -> bool:
        """Have each lane's adapter in place; False where that takes too much memory.

        Args:
            lanes: an adapter or None for each.
        """
        coming = [a for i, a in enumerate(lanes) if i >= len(self._held) or self._held[i] is not a]
        if not coming and self.layers:
            return True
        changed = self._changed.union(*(loras(a) for a in coming))
        rank = max([self._rank, *(len(op.a) for a in coming for op in loras(a).values())])
        if (changed, rank) != (self._changed, self._rank) or len(lanes) > len(self._held):
            room = max(len(self._held), 1 << (len(lanes) - 1).bit_length())
            if not self._allocate(room, rank, changed):
                return False
        for lane, adapter in enumerate(lanes):
            if self._held[lane] is not adapter:
                self._fill(lane, adapter)
                self._held[lane] = adapter
        return True

    def _allocate(self, lanes: int, rank: int, changed: frozenset[str]) -> bool:
        numbers = sum(sum(self._widths[name]) for name in changed) * rank * lanes
        self.clear()
        if numbers * self._dtype.itemsize > self._max_bytes:
            return False
        for layer in self._names:
            groups = {g: names for g, names in layer.items() if not changed.isdisjoint(names)}
            self.layers.append({g: self._group(lanes, rank, changed, n) for g, n in groups.items()})
        self._held, self._changed, self._rank = [None] * lanes, changed, rank
        return True

    def _group(self, lanes: int, rank: int, changed: frozenset[str], names: list[str]) -> Group:
        here = [n for n in names if n in changed]
        b = [self._zeros(lanes, rank, self._widths[n][1]) if n in changed else None for n in names]
        width = len(here) * rank
        return Group(self._zeros(lanes, width, self._widths[names[0]][0]), b)

    def _zeros(self, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=self._dtype, device=self._device)

    @torch.no_grad()
    def _fill(self, lane: int, adapter: Any) -> None:
        """Put an adapter's weights into a lane, and zeros where it has none."""
        linear = loras(adapter)
        for names, groups in zip(self._names, self.layers, strict=True):
            for kind, group in groups.items():
                first = 0
                for name, b in zip(names[kind], group.b, strict=True):
                    if b is None:
                        continue
                    op = linear.get(name)
                    rank = 0 if op is None else len(op.a)
                    last = first + self._rank
                    if rank < self._rank:
                        group.a[lane, first + rank : last] = 0
                        b[lane, rank:] = 0
                    if op is not None:
                        group.a[lane, first : first + rank] = op.a
                        torch.mul(op.b.t(), op.scale, out=b[lane, :rank])
                    first = last


def loras(adapter: Any) -> dict[str, LoraOp]:
    """The LoRA of an adapter by module; none of None."""
    if adapter is None:
        return {}
    return {name: op for name, op in adapter.linear.items() if isinstance(op, LoraOp)}
