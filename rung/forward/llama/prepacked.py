"""Weights a second time, laid out as oneDNN multiplies a few rows with them fastest.

A product of a few rows with a plain weight spends much of its time on bringing the weight into the
order in which it is multiplied. Done once, that costs the weight's memory again, so it is done on a CPU
where memory is plentiful, and only where it turns out to be faster.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import psutil
import torch
import torch.nn.functional as F
from torch import Tensor

LEAST = 1 << 18  # numbers in a weight; with fewer a call costs more than the product
FEW = 4  # rows below which reading the weight is all that counts
MANY = 128  # rows above which the plain product is as fast
SPARE = 6  # times the weights' bytes that must be free
GAIN = 0.93  # of the plain products' time that the packed ones may take
TRIES = 3


def pack(weights: Sequence[Tensor], rows: int) -> list[Tensor] | None:
    """Weights (d_out, d_in) of alike layers packed, or None where that cannot be had or is no gain.

    Args:
        rows: how many are multiplied at once, at most.
    """
    first = weights[0]
    if first.device.type != "cpu" or first.dtype != torch.float32 or rows < FEW:
        return None
    size = sum(w.numel() for w in weights) * first.element_size()
    if first.numel() < LEAST or psutil.virtual_memory().available < SPARE * size:
        return None
    if not torch.backends.mkldnn.is_available():
        return None
    packed = [torch.ops.mkldnn._reorder_linear_weight(w.contiguous(), rows) for w in weights]
    x = torch.linspace(-1, 1, rows * first.shape[1]).view(rows, -1)
    if not torch.allclose(multiply(x, packed[0]), F.linear(x, first), rtol=1e-3, atol=1e-3):
        return None
    plain = _seconds(lambda: [F.linear(x, w) for w in weights])
    return packed if _seconds(lambda: [multiply(x, w) for w in packed]) < GAIN * plain else None


def multiply(x: Tensor, packed: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (n, d_in) and a packed weight -> (n, d_out)."""
    return torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")


def _seconds(work: Callable[[], object]) -> float:
    """The shortest of a few runs, after one that does not count."""
    work()
    found = []
    for _ in range(TRIES):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return min(found)
