"""The steering vectors of a step, as one table by slot for each group of projections."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rung.forward.adapter import Adapter
from rung.forward.slots import Slots
from rung.forward.steer import SteerOp

MAX_ARRANGEMENTS = 2  # kept, by the slots that are present

Tables = dict[str, Tensor]  # by group, (slots present, sum of d_out)
Add = Callable[[str, Tensor, Tensor, Sequence[int]], Tensor]


class SteeringTables:
    """Tables by the slots that are present; a slot that is not steered has a row of zeros.

    Vectors in training are read anew in each pass, since a table of theirs would soon be old.

    Args:
        names: per layer and group the modules' names. widths: (d_in, d_out) by name.
        dtype, device: of the base.
    """

    def __init__(
        self, names: Sequence[dict[str, list[str]]], widths: Mapping[str, tuple[int, int]],
        dtype: torch.dtype, device: torch.device,
    ):  # fmt: skip
        self._names, self._widths, self._dtype, self._device = names, widths, dtype, device
        self._kept: OrderedDict[tuple[int, ...], tuple[list[Adapter | None], list[Tables] | None]]
        self._kept = OrderedDict()

    def clear(self) -> None:
        """Forget all tables."""
        self._kept.clear()

    def add_to(self, adds: Sequence[Any], adapters: Mapping[int, Adapter], slots: Slots) -> list[Any]:
        """Per layer what adds the vectors behind what `adds` does; the same where none is steered."""
        mine = [adapters.get(s) for s in slots.present]
        kept = self._kept.get(slots.present)
        if (
            kept is None
            or any(a is not b for a, b in zip(kept[0], mine, strict=True))
            or any(op.vector.requires_grad for a in mine for op in _steers(a).values())
        ):
            kept = self._kept[slots.present] = mine, self._layers(mine)
            while len(self._kept) > MAX_ARRANGEMENTS:
                self._kept.popitem(last=False)
        self._kept.move_to_end(slots.present)
        if kept[1] is None:
            return list(adds)
        return [
            Steered(add, tables, slots) if tables else add
            for add, tables in zip(adds, kept[1], strict=True)
        ]

    def _layers(self, adapters: Sequence[Adapter | None]) -> list[Tables] | None:
        """Per layer its tables; None where no adapter steers."""
        steered = [_steers(a) for a in adapters]
        if not any(steered):
            return None
        changed = {name for ops in steered for name in ops}
        return [
            {g: self._table(steered, n) for g, n in layer.items() if not changed.isdisjoint(n)}
            for layer in self._names
        ]

    @torch.no_grad()
    def _table(self, steered: Sequence[Mapping[str, SteerOp]], names: Sequence[str]) -> Tensor:
        widths = [self._widths[name][1] for name in names]
        table = torch.zeros(len(steered), sum(widths), dtype=self._dtype, device=self._device)
        for row, ops in zip(table, steered, strict=True):
            for name, place in zip(names, row.split(widths), strict=True):
                if (op := ops.get(name)) is not None:
                    place.copy_(op.strength * op.vector)
        return table


def _steers(adapter: Adapter | None) -> dict[str, SteerOp]:
    """The steering vectors of an adapter by module; none of None."""
    linear = {} if adapter is None else adapter.linear
    return {name: op for name, op in linear.items() if isinstance(op, SteerOp)}


class Steered:
    """What adds a layer's LoRA, where it has any, and its steering vectors behind it."""

    def __init__(self, add: Add | None, tables: Tables, slots: Slots):
        self.add, self.tables, self.slots = add, tables, slots

    def __call__(self, group: str, x: Tensor, y: Tensor, widths: Sequence[int]) -> Tensor:
        """x (B, d_in) and the projections' joined output y (B, sum of widths), which is changed."""
        if self.add is not None:
            y = self.add(group, x, y, widths)
        table = self.tables.get(group)
        if table is None:
            return y
        return y.add_(table[0] if self.slots.only is not None else table[self.slots.places(y.device)])
