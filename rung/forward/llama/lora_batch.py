"""The LoRA adapters and steering vectors of a step, arranged once for as long as the same ones decode
together."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rung.forward.adapter import Adapter
from rung.forward.backbone import Backbone
from rung.forward.llama.detect import GROUPS
from rung.forward.llama.lora_lanes import Group, LaneWeights, loras
from rung.forward.llama.steering import SteeringTables
from rung.forward.lora import LoraOp
from rung.forward.slots import Slots
from rung.forward.steer import SteerOp

MAX_TOGETHER = 12  # adapters multiplied as one; with more, most of that product is thrown away
MAX_ARRANGEMENTS = 2  # kept, by the slots that are present

Rows = slice | Tensor
Columns = tuple[tuple[int, int, float], ...]  # (slot, width, scale)


@dataclass
class Stack:
    """The adapters of one group of projections: A of all, and B of each projection.

    Attributes:
        a: (d_in, R). b: per projection (R of it, d_out), None where no adapter changes it.
        columns: whose columns of `a` are whose.
    """

    a: Tensor
    b: list[Tensor | None]
    columns: Columns


class LoraStacks:
    """Arrangements by the slots that are present.

    Adapters that are being trained are used as they are, since a copy of theirs would soon be old.

    Args:
        adapters: by slot.
    """

    def __init__(self, backbone: Backbone, adapters: Mapping[int, Adapter]):
        self.adapters, self.dtype = adapters, backbone.dtype
        self._kept: OrderedDict[tuple, tuple[list[Any], list[dict[str, Stack]] | None]] = OrderedDict()
        self._names = [
            {g: [f"{layer}.{n}" for n in names] for g, names in GROUPS.items()}
            for layer in backbone.layer_names
        ]
        self._known = {n for layer in self._names for names in layer.values() for n in names}
        modules: dict[str, Any] = {n: backbone.modules[n] for n in self._known}
        widths = {n: (m.in_features, m.out_features) for n, m in modules.items()}
        self._fitting: dict[int, Any] = {}  # of the last step, those that were found to fit
        self._lanes = LaneWeights(self._names, widths, backbone.dtype, backbone.device)
        self._steering = SteeringTables(self._names, widths, backbone.dtype, backbone.device)

    def clear(self) -> None:
        """Forget all arrangements."""
        self._kept.clear()
        self._fitting.clear()
        self._lanes.clear()
        self._steering.clear()

    def suits(self, slots: Slots) -> bool:
        """Whether all that these adapters do to layers is LoRA or steering on known projections."""
        if self._as_they_are(slots):
            return self._are_known(slots.present)
        return self._arranged(slots)[1] is not None

    def _as_they_are(self, slots: Slots) -> bool:
        """Whether adapters are not arranged: they are many, or change from step to step."""
        return len(slots.present) > MAX_TOGETHER or any(
            _in_training(self.adapters.get(s)) for s in slots.present
        )

    def of(self, slots: Slots, by_lane: bool = False) -> Sequence[Any]:
        """Per layer what adds the adapters' part, or None where there are none; they must suit.

        Args:
            by_lane: each token is a lane, and will mostly be its adapter's in the next step too.
        """
        return self._steering.add_to(self._of_loras(slots, by_lane), self.adapters, slots)

    def _of_loras(self, slots: Slots, by_lane: bool) -> Sequence[Any]:
        if by_lane and len(slots.present) > MAX_TOGETHER:
            adapters = [self.adapters.get(s) for s in slots.of_token.tolist()]
            if not any(map(_in_training, adapters)) and self._lanes.hold(adapters):
                return [OfLanes(groups) if groups else None for groups in self._lanes.layers]
        if self._as_they_are(slots):
            mine = self._linear(slots)
            return [OneByOne(mine, names) for names in self._names]
        layers = self._arranged(slots)[1]
        assert layers is not None
        return [Added(stacks, slots) if stacks else None for stacks in layers]

    def _linear(self, slots: Slots) -> list[tuple[Rows, Mapping[str, Any]]]:
        known = ((s, loras(self.adapters.get(s))) for s in slots.present)
        return [(slots.rows(s), linear) for s, linear in known if linear]

    def _arranged(self, slots: Slots) -> tuple[list[Any], list[dict[str, Stack]] | None]:
        adapters = [self.adapters.get(s) for s in slots.present]
        known = self._kept.get(slots.present)
        if known is None or any(a is not b for a, b in zip(known[0], adapters, strict=True)):
            known = adapters, self._arrange(slots.present, adapters)
            self._kept[slots.present] = known
            while len(self._kept) > MAX_ARRANGEMENTS:
                self._kept.popitem(last=False)
        self._kept.move_to_end(slots.present)
        return known

    def _arrange(
        self, present: Sequence[int], adapters: Sequence[Any]
    ) -> list[dict[str, Stack]] | None:
        if not self._are_known(present):
            return None
        mine = {s: linear for s, a in zip(present, adapters, strict=True) if (linear := loras(a))}
        return [
            {g: stack for g, names in layer.items() if (stack := self._stack(mine, names)) is not None}
            for layer in self._names
        ]

    def _are_known(self, present: Sequence[int]) -> bool:
        """Whether adapters do nothing to layers but LoRA or steering on known projections."""
        adapters = {s: self.adapters.get(s) for s in present}
        known = self._fitting
        self._fitting = {
            s: a for s, a in adapters.items() if a is None or known.get(s) is a or self._fits(a)
        }
        return len(self._fitting) == len(adapters)

    def _fits(self, adapter: Any) -> bool:
        # The head is asked for its own weights elsewhere; a layer's would be missed here.
        return not adapter.weights and all(
            type(op) in (LoraOp, SteerOp) and name in self._known for name, op in adapter.linear.items()
        )

    def _stack(self, mine: dict[int, Any], names: Sequence[str]) -> Stack | None:
        a, columns, b = [], [], []
        for name in names:
            ops = [(s, linear[name]) for s, linear in mine.items() if name in linear]
            a += [op.a for _, op in ops]
            columns += [(s, len(op.a), op.scale) for s, op in ops]
            b.append(torch.cat([op.b.t() for _, op in ops]).to(self.dtype) if ops else None)
        if not a:
            return None
        return Stack(torch.cat(a).to(self.dtype).t().contiguous(), b, tuple(columns))


def _in_training(adapter: Adapter | None) -> bool:
    """Whether a LoRA's weights are being trained: methods train all of an adapter or nothing."""
    if adapter is None or not adapter.linear:
        return False
    return any(t.requires_grad for t in next(iter(adapter.linear.values())).parameters().values())


class OfLanes:
    """What adapters that stand by lane add in one layer; called as `Added`."""

    def __init__(self, groups: dict[str, Group]):
        self.groups = groups

    def __call__(self, group: str, x: Tensor, y: Tensor, widths: Sequence[int]) -> Tensor:
        if group in self.groups:
            self.groups[group](x, y, widths)
        return y


class OneByOne:
    """What adapters add in one layer that are used as they are; called as `Added`.

    Arranging many of them would cost more than it saves in one pass over long rows.
    """

    def __init__(self, mine: Sequence[tuple[Rows, Mapping[str, Any]]], names: dict[str, list[str]]):
        self.mine, self.names = mine, names

    def __call__(self, group: str, x: Tensor, y: Tensor, widths: Sequence[int]) -> Tensor:
        for rows, linear in self.mine:
            at = 0
            for name, width in zip(self.names[group], widths, strict=True):
                if (op := linear.get(name)) is not None:
                    part = y[rows, at : at + width]
                    part.addmm_(x[rows] @ op.a.t().to(x.dtype), op.b.t().to(x.dtype), alpha=op.scale)
                    if not isinstance(rows, slice):
                        y[rows, at : at + width] = part
                at += width
        return y


class Added:
    """What the adapters of a step add in one layer."""

    def __init__(self, stacks: dict[str, Stack], slots: Slots):
        self.stacks, self.slots = stacks, slots

    def __call__(self, group: str, x: Tensor, y: Tensor, widths: Sequence[int]) -> Tensor:
        """x (B, d_in) and the projections' joined output y (B, sum of widths), which is changed."""
        stack = self.stacks.get(group)
        if stack is None:
            return y
        owners = {s for s, _, _ in stack.columns}
        if len(owners) == 1 and self.slots.only is None:
            rows = self.slots.rows(next(iter(owners)))
            part = y[rows]
            self._add(stack, x[rows], part, widths)
            if not isinstance(rows, slice):
                y[rows] = part
        else:
            self._add(stack, x, y, widths)
        return y

    def _add(self, stack: Stack, x: Tensor, y: Tensor, widths: Sequence[int]) -> None:
        hidden = x @ stack.a
        first = stack.columns[0]
        if all(s == first[0] and v == first[2] for s, _, v in stack.columns):
            hidden *= first[2]
        elif all(s == first[0] for s, _, _ in stack.columns):  # one adapter's, and its rows alone
            hidden *= hidden.new_tensor([v for _, width, v in stack.columns for _ in range(width)])
        else:
            hidden *= self.slots.column_mask(stack.columns, x)
        at = column = 0
        for width, b in zip(widths, stack.b, strict=True):
            if b is not None:
                y[:, at : at + width].addmm_(hidden[:, column : column + len(b)], b)
                column += len(b)
            at += width
