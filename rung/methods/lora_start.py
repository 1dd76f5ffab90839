"""Where LoRA begins: at nothing, or at a part of the weight itself (PiSSA, OLoRA)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rung.methods import layers

if TYPE_CHECKING:
    from torch import Tensor

FORMED = ("pissa", "olora")


def formed(start: str, module: Any, rank: int, scale: float) -> tuple[Tensor, Tensor]:
    """A (r, d_in) and B (d_out, r) that PEFT begins with, and takes out of the base's weight.

    Args:
        start: `pissa` (arXiv 2404.02948), the main singular directions, or `olora` (arXiv 2406.01775),
            the first columns of a QR decomposition.

    Raises:
        ValueError: for olora on a projection that keeps its weight as (d_in, d_out), where PEFT
            has none.
    """
    import torch

    weight = module.weight.detach().float()
    turned = layers.transposed(module)
    if start == "olora":
        if turned:
            raise ValueError("OLoRA on transposed projections")
        q, r = torch.linalg.qr(weight)
        return r[:rank].contiguous(), q[:, :rank].contiguous()
    u, s, vh = torch.linalg.svd(weight.t() if turned else weight, full_matrices=False)
    root = (s[:rank] / scale).sqrt()
    return root[:, None] * vh[:rank], u[:, :rank] * root
