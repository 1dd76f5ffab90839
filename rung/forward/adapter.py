"""An adapter: small weights apart from the base, as the seams they override."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rung.forward.slots import Slots


class LinearOp:
    """What an adapter does to one projection. Subclasses say `before`, `after`, or both.

    All adapters of a batch that share a subclass go through `before_all` and `after_all` once per
    projection. The defaults work on each slot's tokens in turn; a subclass can stack them.
    """

    def parameters(self) -> dict[str, Tensor]:
        """What training changes, by a name that is unique within the projection."""
        raise NotImplementedError

    def before(self, x: Tensor) -> Tensor:
        """x (n, d_in) -> what the projection gets instead."""
        return x

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        """x (n, d_in) and the projection's output y (n, d_out) -> the new output."""
        return y

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


@dataclass
class Adapter:
    """The seams that one adapter overrides; what is absent is left to the base.

    Attributes:
        embeddings: (P, d) virtual tokens at the root of the trie.
        keys_values: (layers, 2, P, kv_heads, head_dim) in front of every layer's keys and values.
        linear: operations on projections, by the module's name in the base.
        weights: own copies of the base's parameters, by parameter name.
    """

    embeddings: Tensor | None = None
    keys_values: Tensor | None = None
    linear: Mapping[str, LinearOp] = field(default_factory=dict)
    weights: dict[str, Tensor] = field(default_factory=dict)

    def parameters(self) -> dict[str, Tensor]:
        """All tensors that training changes, by a name that is stable across runs."""
        named = {"embeddings": self.embeddings, "keys_values": self.keys_values}
        found = {name: tensor for name, tensor in named.items() if tensor is not None}
        for module, op in self.linear.items():
            for name, tensor in op.parameters().items():
                found[f"linear.{module}.{name}"] = tensor
        for name, tensor in self.weights.items():
            found[f"weights.{name}"] = tensor
        return found

    def trainable(self, on: bool = True) -> Adapter:
        """Set or clear requires_grad on every parameter; returns itself."""
        for tensor in self.parameters().values():
            tensor.requires_grad_(on)
        return self

    def to(self, device: str | torch.device) -> Adapter:
        """Move every parameter's data in place; dtypes are kept."""
        for tensor in self.parameters().values():
            tensor.data = tensor.data.to(device)
        return self

    @property
    def size(self) -> int:
        """Number of parameters."""
        return sum(t.numel() for t in self.parameters().values())
