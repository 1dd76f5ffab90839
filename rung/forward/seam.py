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

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module's own forward takes and gives."""
        slots: Slots | None = self.bank.slots
        if slots is None:
            return self.original(*args, **kwargs)
        kinds = [(k, here) for k, o in self.ops.items() if (here := _present(o, slots))]
        own = _present(self.weights, slots)
        if not kinds and not own:
            return self.original(*args, **kwargs)
        if not kinds and slots.only is not None:
            return self._with(own[slots.only], args, kwargs)
        key = None if args else next(iter(kwargs))  # what a module reads stands first
        x = args[0] if key is None else kwargs.pop(key)
        lead = x.shape[: self._lead(x)]
        flat = x.reshape(-1, *x.shape[len(lead) :])

        def base(x: Tensor, weights: dict[str, Tensor] | None, at: Any = None) -> Any:
            """The module's answer to rows x, all of them or those `at` some places."""
            more = args[1:], kwargs
            if at is not None:
                more = (
                    tuple(_rows_of(a, at, lead, len(flat)) for a in more[0]),
                    {k: _rows_of(v, at, lead, len(flat)) for k, v in kwargs.items()},
                )
            told = ((x, *more[0]), more[1]) if key is None else ((), {key: x, **more[1]})
            return self._with(weights, *told) if weights else self.original(*told[0], **told[1])

        return _shaped(self._flat(flat, slots, kinds, own, base), lead)

    def _flat(self, flat: Tensor, slots: Slots, kinds: Any, own: Any, base: Any) -> Any:
        """Rows (T, ...) through the module and what adapters do there."""
        if slots.only is not None and len(kinds) == 1 and not own:
            y = kinds[0][1][slots.only].project(flat, self.module)
            if y is not None:
                return y
        for kind, here in kinds:
            if slots.only is not None:
                flat = here[slots.only].before(flat)
            else:
                flat = kind.before_all(here, flat, slots)
        y = self._base(flat, slots, own, base)
        for kind, here in kinds:
            if slots.only is not None:
                y = here[slots.only].after(flat, y)
            else:
                y = kind.after_all(here, flat, y, slots)
        return y

    def _lead(self, x: Tensor) -> int:
        """How many leading dimensions enumerate tokens: all of an id tensor, all but the last else."""
        return x.dim() if not x.is_floating_point() else x.dim() - 1

    def _base(self, flat: Tensor, slots: Slots, own: Any, base: Any) -> Any:
        """The module itself, with each slot's own weights for its rows."""
        if slots.only is not None:
            return base(flat, own.get(slots.only))
        out = base(flat, None)
        if not own:
            return out
        parts = list(out) if isinstance(out, tuple) else [out]  # a router, say, gives several
        parts = [p.clone() if isinstance(p, Tensor) else p for p in parts]
        for slot, weights in own.items():
            rows = slots.rows(slot)
            found = base(flat[rows], weights, rows)
            for part, mine in zip(parts, found if isinstance(found, tuple) else (found,), strict=True):
                if isinstance(part, Tensor):
                    part[rows] = mine
        return tuple(parts) if isinstance(out, tuple) else parts[0]

    def _with(self, weights: dict[str, Tensor], args: Any, kwargs: Any) -> Any:
        """The module's own forward with other weights in place of its parameters."""
        kept = {name: self.module._parameters[name] for name in weights}
        try:
            for name, tensor in weights.items():
                self.module._parameters[name] = tensor.to(kept[name].dtype)  # type: ignore
            return self.original(*args, **kwargs)
        finally:
            self.module._parameters.update(kept)


def _rows_of(argument: Any, at: Any, lead: Any, count: int) -> Any:
    """The rows at some places of what stands beside the tokens, such as which experts they go to;
    what is no table of them stays whole."""
    if not isinstance(argument, Tensor):
        return argument
    if argument.dim() > len(lead) and argument.shape[: len(lead)] == lead:
        return argument.reshape(count, *argument.shape[len(lead) :])[at]
    return argument[at] if argument.dim() and len(argument) == count else argument


def _shaped(out: Any, lead: Any) -> Any:
    """Outputs of flat rows in the shape that the module was asked in; of several, those that are rows
    stay flat where the module flattens them by itself."""
    if isinstance(out, tuple):
        return out
    return out.reshape(*lead, *out.shape[1:])


def _present(by_slot: dict[int, Any], slots: Slots) -> dict[int, Any]:
    return {s: by_slot[s] for s in slots.present if s in by_slot} if by_slot else {}
