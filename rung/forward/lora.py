"""LoRA's part in a projection: alone, in a mixed batch, and as one step of autograd."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rung.forward.dropout import Dropout
from rung.forward.op import LinearOp
from rung.forward.slots import Slots


class LoraOp(LinearOp):
    """Adds `scale * x A' B'` to a projection (LoRA, arXiv 2106.09685).

    a (r, d_in), b (d_out, r). Adapters of a mixed batch are stacked along the rank: one product with
    all A, a mask that keeps each token's own columns, one product with all B.
    """

    def __init__(self, a: Tensor, b: Tensor, scale: float):
        self.a, self.b, self.scale = a, b, scale

    def parameters(self) -> dict[str, Tensor]:
        return {"lora_A": self.a, "lora_B": self.b}

    def project(self, x: Tensor, module: nn.Module) -> Tensor | None:
        """Projection and adapter in one step, for a plain float32 linear layer in training."""
        if type(module) is not nn.Linear or not torch.is_grad_enabled():
            return None
        if not x.dtype == module.weight.dtype == self.a.dtype:
            return None
        return _LoraLinear.apply(x, module, self.scale, self.a, self.b)

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        hidden = nn.functional.linear(x, self.a.to(x.dtype))  # (n, r)
        return torch.addmm(y, hidden, self.b.to(x.dtype).t(), alpha=self.scale)

    def merged(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return weight + self.scale * (self.b.detach() @ self.a.detach()).to(weight.device), bias

    @classmethod
    def after_all(cls, ops, x: Tensor, y: Tensor, slots: Slots) -> Tensor:
        a = torch.cat([op.a for op in ops.values()]).to(x.dtype)  # (R, d_in)
        b = torch.cat([op.b for op in ops.values()], 1).to(x.dtype)  # (d_out, R)
        columns = tuple((slot, len(op.a), op.scale) for slot, op in ops.items())
        hidden = nn.functional.linear(x, a) * slots.column_mask(columns, x)
        return torch.addmm(y, hidden, b.t())


class StartedLoraOp(LoraOp):
    """LoRA in training that begins from a part of the weight itself, or whose input is dropped out.

    The base keeps its weight: what training began from is taken off the product, `scale * x (A' B' -
    A0' B0')`, which is what PEFT computes with a base that it took that part out of.

    Args:
        first: (r, d_in) and (d_out, r), the A and B that training begins from; None for LoRA that
            begins at nothing.
        dropout: of the input, and the name of this place.
    """

    def __init__(
        self,
        a: Tensor,
        b: Tensor,
        scale: float,
        first: tuple[Tensor, Tensor] | None,
        dropout: tuple[Dropout, str] | None = None,
    ):
        super().__init__(a, b, scale)
        self.first, self.dropout = first, dropout

    def project(self, x: Tensor, module: nn.Module) -> Tensor | None:
        return None

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        if self.first is not None:
            a, b = (t.to(x.dtype) for t in self.first)
            y = torch.addmm(y, nn.functional.linear(x, a), b.t(), alpha=-self.scale)
        if self.dropout is not None:
            x = self.dropout[0](x, self.dropout[1])
        return super().after(x, y)

    def kept(self) -> LoraOp:
        """Plain LoRA of the base's own weight, of twice the rank where it began from a part of it."""
        if self.first is None:
            return LoraOp(self.a, self.b, self.scale)
        a, b = self.first
        return LoraOp(torch.cat([self.a, a]), torch.cat([self.b, -b], 1), self.scale)

    def merged(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return self.kept().merged(weight, bias)

    @classmethod
    def after_all(cls, ops, x: Tensor, y: Tensor, slots: Slots) -> Tensor:
        return super(LoraOp, cls).after_all(ops, x, y, slots)


class BiasedLoraOp(LoraOp):
    """LoRA whose second product has a bias (d_out,), as PEFT's `lora_bias`."""

    def __init__(self, a: Tensor, b: Tensor, scale: float, bias: Tensor):
        super().__init__(a, b, scale)
        self.bias = bias

    def parameters(self) -> dict[str, Tensor]:
        return {**super().parameters(), "lora_B_bias": self.bias}

    def project(self, x: Tensor, module: nn.Module) -> Tensor | None:
        return None

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        return super().after(x, y) + self.scale * self.bias.to(y.dtype)

    def merged(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if bias is None:
            raise NotImplementedError("a bias where the base has none")
        weight, _ = super().merged(weight, bias)
        return weight, bias + self.scale * self.bias.detach().to(bias.device)

    @classmethod
    def after_all(cls, ops, x: Tensor, y: Tensor, slots: Slots) -> Tensor:
        out = super().after_all(ops, x, y, slots)
        for slot, op in ops.items():
            out[slots.rows(slot)] += op.scale * op.bias.to(out.dtype)
        return out


class Low(NamedTuple):
    """A projection's LoRA in the precision of the pass: a (r, d_in), b (d_out, r)."""

    a: Tensor
    b: Tensor
    scale: float


class Group:
    """Projections that read the same input, with the LoRA of one adapter beside each.

    Args:
        linear: plain linear layers, frozen.
        low: for each of them its LoRA, or None.
    """

    def __init__(self, linear: Sequence[Any], low: Sequence[Low | None]):
        self.linear, self.low = linear, low
        present = [one.a for one in low if one is not None]
        self.a = (present[0] if len(present) == 1 else torch.cat(present)) if present else None
        ends = [0]
        for one in low:
            ends.append(ends[-1] + (len(one.a) if one is not None else 0))
        self.columns = [slice(a, b) for a, b in zip(ends[:-1], ends[1:], strict=True)]

    def forward(self, x: Tensor, onto: Tensor | None = None) -> tuple[list[Tensor], Tensor | None]:
        """x (T, d_in) -> each projection (T, d_out), and x A' of all (T, R).

        Args:
            onto: (T, d_out) that the only projection is added to.
        """
        hidden = None if self.a is None else torch.mm(x, self.a.t())
        found = []
        for module, low, at in zip(self.linear, self.low, self.columns, strict=True):
            if onto is None:
                y = nn.functional.linear(x, module.weight, module.bias)
            else:
                y = torch.addmm(onto, x, module.weight.t())
                if module.bias is not None:
                    y += module.bias
            if low is not None and hidden is not None:
                y.addmm_(hidden[:, at], low.b.t(), alpha=low.scale)
            found.append(y)
        return found, hidden

    def backward(
        self, grads: Sequence[Tensor], x: Tensor | None, hidden: Tensor | None, through: bool = True
    ) -> tuple[Tensor | None, list[Tensor | None]]:
        """Gradients of the outputs -> that of x (None unless `through`), and of a and b of each.

        Args:
            x, hidden: what `forward` saw and gave; None where there is no LoRA.
        """
        grad_x = None
        if through:
            grad_x = torch.mm(grads[0], self.linear[0].weight)
            for grad, module in zip(grads[1:], self.linear[1:], strict=True):
                grad_x.addmm_(grad, module.weight)
        found: list[Tensor | None] = [None] * (2 * len(self.low))
        if self.a is None or x is None or hidden is None:
            return grad_x, found
        back = x.new_empty(len(x), len(self.a))  # (T, R)
        for i, (grad, low, at) in enumerate(zip(grads, self.low, self.columns, strict=True)):
            if low is not None:
                torch.mul(torch.mm(grad, low.b), low.scale, out=back[:, at])
                # Written so that the long side is contiguous, 2 to 3 times faster on a CPU.
                found[2 * i + 1] = torch.mm(hidden[:, at].t(), grad).mul_(low.scale).t()
        if grad_x is not None:
            grad_x.addmm_(back, self.a)
        grad_a = torch.mm(back.t(), x)
        for i, (low, at) in enumerate(zip(self.low, self.columns, strict=True)):
            found[2 * i] = grad_a[at] if low is not None else None
        return grad_x, found


class _LoraLinear(torch.autograd.Function):
    """x W' + bias + scale * (x A') B' with W frozen.

    Left to autograd, each projection would make two full-size temporaries and a sum of two gradients
    more.
    """

    @staticmethod
    def forward(ctx: Any, x, module, scale, a, b):
        (y,), hidden = Group([module], [Low(a, b, scale)]).forward(x)
        ctx.save_for_backward(x, a, b, hidden)
        ctx.module, ctx.scale = module, scale
        return y

    @staticmethod
    def backward(ctx: Any, grad):
        x, a, b, hidden = ctx.saved_tensors
        group = Group([ctx.module], [Low(a, b, ctx.scale)])
        grad_x, own = group.backward([grad.contiguous()], x, hidden, ctx.needs_input_grad[0])
        return grad_x, None, None, *own
