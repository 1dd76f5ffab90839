"""A steering vector on a layer's output (activation addition, arXiv 2308.10248).

Where a layer ends by adding a module's output to the residual stream, a vector added to that output is
added to the layer's own; so it goes through every pass that knows projections.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rung.forward.op import LinearOp

if TYPE_CHECKING:
    from rung.forward.backbone import Backbone

# The last module of a layer before the residual sum, as families call it, first match first.
LAST = (
    "post_feedforward_layernorm", "mlp.down_proj", "mlp.c_proj", "mlp.dense_4h_to_h", "mlp.fc2",
    "mlp.fc_out", "fc2",
)  # fmt: skip


class SteerOp(LinearOp):
    """Adds `strength` times a vector (d,) to a module's output."""

    strength: float

    def __init__(self, vector: Tensor, strength: float = 1.0):
        self.vector, self.strength = vector, strength

    def parameters(self) -> dict[str, Tensor]:
        return {"vector": self.vector}

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        return y + (self.strength * self.vector).to(y.dtype)

    def at_strength(self, strength: float | None) -> SteerOp:
        return SteerOp(self.vector.detach().clone(), self.strength if strength is None else strength)

    def merged(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if bias is None:
            raise NotImplementedError("the base has no bias to hold it: use --to control_vector")
        return weight, bias + self.strength * self.vector.detach().to(bias)


def last_modules(backbone: Backbone) -> dict[int, str]:
    """Find the module behind which a layer's residual sum stands, by layer; none where it has no known
    name."""
    found = {}
    for at, layer in enumerate(backbone.layer_names):
        known = [f"{layer}.{n}" for n in LAST if f"{layer}.{n}" in backbone.modules]
        if known:
            found[at] = known[0]
    return found


def unit(vector: Tensor) -> Tensor:
    """Scale a vector to length 1; one of zeros stays as it is."""
    return vector / vector.norm().clamp_min(torch.finfo(vector.dtype).tiny)
