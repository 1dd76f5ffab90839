"""DoRA's part in a projection: LoRA for the direction of a weight's rows, a vector for the lengths."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rung.forward.dropout import Dropout
from rung.forward.op import LinearOp


class DoraOp(LinearOp):
    """Weight-decomposed LoRA (arXiv 2402.09353): the rows of W + scale * B A, each brought to the
    length that `magnitude` (d_out,) says. As in the paper, no gradient goes through the rows' lengths.

    Args:
        module: the base's projection. transposed: whether it keeps its weight as (d_in, d_out).
    """

    def __init__(
        self, a: Tensor, b: Tensor, scale: float, magnitude: Tensor, module: Any, transposed: bool
    ):
        self.a, self.b, self.scale, self.magnitude = a, b, scale, magnitude
        self.module, self.transposed = module, transposed
        self.dropout: tuple[Dropout, str] | None = None  # of the input in training, and this place
        self.bias: Tensor | None = None  # in place of the base's, where the adapter has its own
        self._known: Tensor | None = None  # the rows' lengths, while nothing is trained

    @classmethod
    def fresh(cls, a: Tensor, b: Tensor, scale: float, module: Any, transposed: bool) -> DoraOp:
        """Make one that changes nothing yet, where b is zero."""
        made = cls(a, b, scale, a.new_empty(0), module, transposed)
        made.magnitude = made.lengths().clone()
        made._known = None
        return made

    def parameters(self) -> dict[str, Tensor]:
        return {"lora_A": self.a, "lora_B": self.b, "magnitude": self.magnitude}

    @torch.no_grad()
    def lengths(self) -> Tensor:
        """Of the rows of W + scale * B A, (d_out,)."""
        if self.a.requires_grad:
            self._known = None
        if self._known is None or self._known.device != self.a.device:
            weight = self.module.weight.float()
            weight = weight.t() if self.transposed else weight
            found = torch.linalg.vector_norm(weight + self.scale * (self.b @ self.a), dim=1)
            if self.a.requires_grad:
                return found
            self._known = found
        return self._known

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        if self.dropout is not None and self.dropout[0].active:
            return self._dropped(x, y)
        factor = self._factor(y)
        hidden = nn.functional.linear(x, self.a.to(x.dtype))
        bias = getattr(self.module, "bias", None) if self.bias is None else self.bias.to(y.dtype)
        own = y if bias is None else y - bias
        out = factor * torch.addmm(own, hidden, self.b.to(x.dtype).t(), alpha=self.scale)
        return out if bias is None else out + bias

    def _dropped(self, x: Tensor, y: Tensor) -> Tensor:
        """As PEFT drops: the base's own output stays whole, what is put beside it reads the rest."""
        assert self.dropout is not None
        dropped, factor = self.dropout[0](x, self.dropout[1]), self._factor(y)
        weight = self.module.weight.to(x.dtype)
        base = dropped @ (weight if self.transposed else weight.t())
        hidden = nn.functional.linear(dropped, self.a.to(x.dtype))
        low = nn.functional.linear(hidden, self.b.to(x.dtype))
        return y + (factor - 1) * base + factor * self.scale * low

    def _factor(self, like: Tensor) -> Tensor:
        return (self.magnitude / self.lengths()).to(like.dtype)

    def merged(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        factor = (self.magnitude.detach() / self.lengths()).to(weight.device)
        whole = weight + self.scale * (self.b.detach() @ self.a.detach()).to(weight.device)
        return factor[:, None] * whole, bias
