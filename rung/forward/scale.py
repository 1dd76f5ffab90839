"""A learned scale on what goes into a projection, or on what comes out of it."""

from __future__ import annotations

from torch import Tensor

from rung.forward.op import LinearOp


class ScaleOp(LinearOp):
    """Multiplies a projection's output, or its input, by a learned vector (IA3, arXiv 2205.05638)."""

    def __init__(self, scale: Tensor, on_input: bool):
        self.scale, self.on_input = scale, on_input

    def parameters(self) -> dict[str, Tensor]:
        return {"ia3_l": self.scale}

    def before(self, x: Tensor) -> Tensor:
        return x * self.scale.to(x.dtype) if self.on_input else x

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        return y if self.on_input else y * self.scale.to(y.dtype)

    def merged(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        scale = self.scale.detach().to(weight.device)
        if self.on_input:
            return weight * scale, bias
        return weight * scale[:, None], None if bias is None else bias * scale
