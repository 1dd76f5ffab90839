"""A seam: the place in a base's module where adapters change what it computes.

The module's `forward` is replaced by the seam's. It works on any module whose output for a token
depends on that token alone, which in a transformer is everything but attention.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from torch import Tensor, nn

from rung.forward.op import LinearOp
from rung.forward.slots import Slots


class Seam:
    """What the resident adapters do at one module."""

    def __init__(self, module: nn.Module, bank: Any):
        self.module, self.bank = module, bank
        self.original = module.forward
        self.ops: dict[type[LinearOp], dict[int, LinearOp]] = defaultdict(dict)
        self.weights: dict[int, dict[str, Tensor]] = {}
        module.forward = self.forward  # type: ignore[method-assign]

    def set(self, slot: int, op: LinearOp) -> None:
        self.ops[type(op)][slot] = op

    def remove(self, slot: int) -> None:
        for by_slot in self.ops.values():
            by_slot.pop(slot, None)
        self.weights.pop(slot, None)

    @property
    def empty(self) -> bool:
        return not self.weights and not any(self.ops.values())

    def detach(self) -> None:
        """Give the module its own forward back."""
        del self.module.forward

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        slots: Slots | None = self.bank.slots
        if slots is None:
            return self.original(x, *args, **kwargs)
        lead = x.shape[: self._lead(x)]
        flat = x.reshape(-1, *x.shape[len(lead) :])
        kinds = [(k, here) for k, o in self.ops.items() if (here := _present(o, slots))]
        if slots.only is not None and len(kinds) == 1 and not self.weights:
            y = kinds[0][1][slots.only].project(flat, self.module)
            if y is not None:
                return y.reshape(*lead, *y.shape[1:])
        for kind, here in kinds:
            if slots.only is not None:
                flat = here[slots.only].before(flat)
            else:
                flat = kind.before_all(here, flat, slots)
        y = self._base(flat, slots, args, kwargs)
        for kind, here in kinds:
            if slots.only is not None:
                y = here[slots.only].after(flat, y)
            else:
                y = kind.after_all(here, flat, y, slots)
        return y.reshape(*lead, *y.shape[1:])

    def _lead(self, x: Tensor) -> int:
        """How many leading dimensions enumerate tokens: all of an id tensor, all but the last else."""
        return x.dim() if not x.is_floating_point() else x.dim() - 1

    def _base(self, flat: Tensor, slots: Slots, args: Any, kwargs: Any) -> Tensor:
        own = _present(self.weights, slots)
        if not own:
            return self.original(flat, *args, **kwargs)
        if slots.only is not None:
            return self._with(own[slots.only], flat, args, kwargs)
        out = self.original(flat, *args, **kwargs).clone()
        for slot, weights in own.items():
            rows = slots.rows(slot)
            out[rows] = self._with(weights, flat[rows], args, kwargs)
        return out

    def _with(self, weights: dict[str, Tensor], flat: Tensor, args: Any, kwargs: Any) -> Tensor:
        """The module's own forward with other weights in place of its parameters."""
        kept = {name: self.module._parameters[name] for name in weights}
        try:
            for name, tensor in weights.items():
                self.module._parameters[name] = tensor.to(kept[name].dtype)  # type: ignore
            return self.original(flat, *args, **kwargs)
        finally:
            self.module._parameters.update(kept)


def _present(by_slot: dict[int, Any], slots: Slots) -> dict[int, Any]:
    return {s: by_slot[s] for s in slots.present if s in by_slot} if by_slot else {}
