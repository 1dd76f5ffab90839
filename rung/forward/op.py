"""What an adapter does to one projection. Needs no torch, so that methods can subclass it cheaply."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from rung.forward.slots import Slots


class LinearOp:
    """What an adapter does to one projection. Subclasses say `before`, `after`, or both.

    All adapters of a batch that share a subclass go through `before_all` and `after_all` once per
    projection. The defaults work on each slot's tokens in turn; a subclass can stack them.

    Attributes:
        strength: how much of the change is applied, None for what has no such figure.
    """

    strength: float | None = None

    def parameters(self) -> dict[str, Tensor]:
        """What training changes, by a name that is unique within the projection."""
        raise NotImplementedError

    def project(self, x: Tensor, module: Any) -> Tensor | None:
        """x (n, d_in) -> what the projection gives with `before` and `after`, or None to use these.

        For adapters that can do it in one step; asked only when all tokens belong to this adapter and
        nothing else changes the module.
        """
        return None

    def before(self, x: Tensor) -> Tensor:
        """x (n, d_in) -> what the projection gets instead."""
        return x

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        """x (n, d_in) and the projection's output y (n, d_out) -> the new output."""
        return y

    def at_strength(self, strength: float | None) -> LinearOp | None:
        """The same change at another strength, None for its own; None for what has none."""
        return None

    def kept(self) -> LinearOp:
        """The change as it is written and served, for what is trained in another form."""
        return self

    def merged(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The projection's weight (d_out, d_in) and bias with this built in, float32.

        Raises:
            NotImplementedError: where that cannot be expressed as a weight and a bias.
        """
        raise NotImplementedError(type(self).__name__)

    @classmethod
    def before_all(cls, ops: Mapping[int, LinearOp], x: Tensor, slots: Slots) -> Tensor:
        """`before` for a batch of mixed slots; x (T, d_in)."""
        return _by_slot({s: op.before for s, op in ops.items()}, cls.before, x, slots)

    @classmethod
    def after_all(cls, ops: Mapping[int, LinearOp], x: Tensor, y: Tensor, slots: Slots) -> Tensor:
        """`after` for a batch of mixed slots; x (T, d_in), y (T, d_out)."""
        if cls.after is LinearOp.after:
            return y
        out = y.clone()
        for slot, op in ops.items():
            rows = slots.rows(slot)
            out[rows] = op.after(x[rows], y[rows])
        return out


def _by_slot(calls, default, x: Tensor, slots: Slots) -> Tensor:
    if default is LinearOp.before:
        return x
    out = x.clone()
    for slot, call in calls.items():
        rows = slots.rows(slot)
        out[rows] = call(x[rows])
    return out
