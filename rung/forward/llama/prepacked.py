"""Weights a second time, laid out as oneDNN multiplies with them fastest.

A product of a few rows with a plain weight spends much of its time on bringing the weight into the
order in which it is multiplied; with many rows oneDNN's kernels are still the faster ones on some
processors. Done once, that costs the weight's memory again, so it is done on a CPU where memory is
plentiful.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psutil
import torch
import torch.nn.functional as F
from torch import Tensor

MIN_ROWS = 4  # below, reading the weight is all that counts
MAX_DECODE_ROWS = 128  # of a step of decoding; above, the plain product is as fast on many processors
MEASURED_BYTES = 64 << 20  # of weights that are timed: more than a processor's cache holds
HINT_ROWS = 32  # that weights are laid out for at least; what suits these suits more


@dataclass(frozen=True, kw_only=True)
class Packing:
    """What is packed, and what packed weights are used for.

    Args:
        rows: that are multiplied at once, at most.
        max_rows: of a product that packed weights are used for; None: no bound.
        min_numbers: in a weight; with fewer a call costs more than the product.
        spare: times the weights' bytes that must be free in memory.
        gain: share of the plain products' time that the packed ones may take, measured on `rows` rows;
            None packs without measuring, so that the same numbers come out in every run.
        tries: runs that are timed, of which the shortest counts.
    """

    rows: int
    max_rows: int | None = MAX_DECODE_ROWS
    min_numbers: int = 1 << 18
    spare: float = 6
    gain: float | None = 0.93
    tries: int = 3

    def suits(self, rows: int) -> bool:
        """Whether a product of so many rows goes by packed weights."""
        return rows >= MIN_ROWS and (self.max_rows is None or rows <= self.max_rows)

    def pack(self, weights: Sequence[Tensor]) -> list[Tensor] | None:
        """Pack weights (d_out, d_in) of alike layers; None where that cannot be had or is no gain."""
        first = weights[0]
        if first.device.type != "cpu" or first.dtype != torch.float32 or self.rows < MIN_ROWS:
            return None
        size = sum(w.numel() for w in weights) * first.element_size()
        if first.numel() < self.min_numbers or psutil.virtual_memory().available < self.spare * size:
            return None
        if not torch.backends.mkldnn.is_available():
            return None
        hint = max(self.rows, HINT_ROWS)
        packed = [torch.ops.mkldnn._reorder_linear_weight(w.contiguous(), hint) for w in weights]
        x = torch.linspace(-1, 1, min(hint, 64) * first.shape[1]).view(-1, first.shape[1])
        if not torch.allclose(multiply(x, packed[0]), F.linear(x, first), rtol=1e-3, atol=1e-3):
            return None
        return packed if self.gain is None or self._gains(weights, packed) else None

    def _gains(self, weights: Sequence[Tensor], packed: Sequence[Tensor]) -> bool:
        """Time both on as many of the weights as no cache holds."""
        assert self.gain is not None
        most = 1 + MEASURED_BYTES // (weights[0].numel() * weights[0].element_size())
        weights, packed = weights[:most], packed[:most]
        x = torch.linspace(-1, 1, self.rows * weights[0].shape[1]).view(self.rows, -1)
        plain = self._seconds(lambda: [F.linear(x, w) for w in weights])
        return self._seconds(lambda: [multiply(x, w) for w in packed]) < self.gain * plain

    def _seconds(self, work: Callable[[], object]) -> float:
        """The shortest of a few runs, after one that does not count."""
        work()
        found = []
        for _ in range(self.tries):
            began = time.perf_counter()
            work()
            found.append(time.perf_counter() - began)
        return min(found)


def multiply(x: Tensor, packed: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (n, d_in) and a packed weight -> (n, d_out)."""
    return torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
