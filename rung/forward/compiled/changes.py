"""What adapters do in a compiled step, arranged once for each adapter: LoRA and steering vectors."""

from __future__ import annotations

import ctypes as c
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from rung.forward.adapter import Adapter
from rung.forward.backbone import Backbone
from rung.forward.compiled.structures import Change
from rung.forward.lora import LoraOp
from rung.forward.slots import Slots
from rung.forward.steer import SteerOp

MAX_KEPT = 64  # adapters that stay arranged


@dataclass(frozen=True, kw_only=True)
class Arranged:
    """One adapter's table, (layers, 7) structures, and the tensors that they point into."""

    adapter: Adapter
    table: Any
    held: list[Tensor]
    rank: int


class OfSlots:
    """The tables of a step's slots."""

    def __init__(self, tables: Mapping[int, Arranged | None]):
        self._tables = tables
        self.max_rank = max((t.rank for t in tables.values() if t is not None), default=0)

    def address(self, slot: int) -> int:
        """Where a slot's table stands; 0 for the bare base."""
        table = self._tables[slot]
        return 0 if table is None else c.addressof(table.table)


class Changes:
    """Tables by slot.

    Args:
        adapters: by slot. names: of a layer's projections, in the order of the tables.
    """

    def __init__(self, backbone: Backbone, adapters: Mapping[int, Adapter], names: Sequence[str]):
        self.adapters = adapters
        self._names = [f"{layer}.{name}" for layer in backbone.layer_names for name in names]
        self._known = frozenset(self._names)
        self._kept: OrderedDict[int, Arranged] = OrderedDict()
        self._last: tuple[tuple[int, ...], list[Any], OfSlots | None] | None = None

    def clear(self) -> None:
        """Give the memory back."""
        self._kept.clear()
        self._last = None

    def of(self, slots: Slots) -> OfSlots | None:
        """The tables of a step; None where an adapter does what no table says, or is in training."""
        present = slots.present
        mine = [self.adapters.get(slot) for slot in present]
        last = self._last
        if (
            last is None
            or last[0] != present
            or any(a is not b for a, b in zip(last[1], mine, strict=True))
        ):
            last = self._last = present, mine, self._of(dict(zip(present, mine, strict=True)))
        return last[2]

    def _of(self, mine: Mapping[int, Adapter | None]) -> OfSlots | None:
        if not all(a is None or self._fits(a) for a in mine.values()):
            return None
        tables = {s: None if a is None else self._table(s, a) for s, a in mine.items()}
        for slot in list(islice(self._kept, max(0, len(self._kept) - MAX_KEPT))):
            if slot not in tables:
                del self._kept[slot]
        return OfSlots(tables)

    def _fits(self, adapter: Adapter) -> bool:
        """Whether an adapter does nothing to layers but LoRA or steering, and is not in training."""
        inner = any(
            name.rpartition(".")[0] in self._known or ".layers." in name for name in adapter.weights
        )
        return not inner and all(
            type(op) in (LoraOp, SteerOp)
            and name in self._known
            and not any(t.requires_grad for t in op.parameters().values())
            for name, op in adapter.linear.items()
        )

    def _table(self, slot: int, adapter: Adapter) -> Arranged:
        kept = self._kept.get(slot)
        if kept is None or kept.adapter is not adapter:
            kept = self._kept[slot] = self._arrange(adapter)
        self._kept.move_to_end(slot)
        return kept

    @torch.inference_mode(False)
    def _arrange(self, adapter: Adapter) -> Arranged:
        held: list[Tensor] = []
        ops = [adapter.linear.get(name) for name in self._names]
        table = (Change * len(ops))(*(_change(op, held) for op in ops))
        rank = max((len(op.a) for op in ops if isinstance(op, LoraOp)), default=0)
        return Arranged(adapter=adapter, table=table, held=held, rank=rank)


def _change(op: Any, held: list[Tensor]) -> Change:
    if isinstance(op, LoraOp):
        a, b = op.a.detach().float().contiguous(), (op.b.detach().float() * op.scale).t().contiguous()
        held += [a, b]
        return Change(a.data_ptr(), b.data_ptr(), 0, len(a))
    if isinstance(op, SteerOp):
        held.append((op.strength * op.vector.detach()).float().contiguous())
        return Change(0, 0, held[-1].data_ptr(), 0)
    return Change(0, 0, 0, 0)
