"""AdamW whose two moments are kept in 8 bits (Dettmers et al., arXiv 2110.02861).

A moment is cut into blocks of 256 values. Each block keeps its largest magnitude as float32, and for
each value the place of the nearest in a table of 256: dynamic exponents and fractions, signed for the
mean, unsigned for the squares. A chunk at a time is widened, updated and rounded again, so that a step
holds no second copy of a moment. bitsandbytes computes the same on a GPU and has no kernel for a CPU;
torchao needs a compiler at run time, and 64-bit places for all of a parameter.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cache
from typing import Any

import torch
from torch import Tensor

BLOCK = 256  # values that share a scale
CHUNK = 4096 * BLOCK  # values that are widened at once
SMALL = 4096  # values of a parameter below which both moments stay float32
BITS = 7  # of the exponent, at most
BYTES = 2 * (1 + 4 / BLOCK)  # of both moments of a value


class AdamW8bit(torch.optim.Optimizer):
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101) over moments in 8 bits.

    Its state is tensors alone: `step`, and for each moment `exp_avg` and `exp_avg_sq` its codes (uint8,
    [values]) with `*_scale` (float32, [blocks]); float32 in the parameter's shape where it is small.

    Args:
        parameters: float32 tensors, or groups of them with a `lr` each.
    """

    def __init__(
        self,
        parameters: Iterable[Any],
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ):
        super().__init__(
            parameters, {"lr": 1e-3, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        )

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update all parameters that have a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)

    def _update(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state |= _begin(parameter)
        state["step"] += 1
        mean, squares = (_Moment(state, name) for name in ("exp_avg", "exp_avg_sq"))
        flat, gradient = parameter.reshape(-1), parameter.grad.reshape(-1)  # type: ignore[union-attr]
        for begin in range(0, flat.numel(), CHUNK):
            part = slice(begin, min(begin + CHUNK, flat.numel()))
            self._chunk(flat[part], gradient[part], mean, squares, part, float(state["step"]), group)
        if not parameter.is_contiguous():  # its values were updated in a copy
            parameter.copy_(flat.view_as(parameter))

    @staticmethod
    def _chunk(
        values: Tensor, gradient: Tensor, mean: _Moment, squares: _Moment, part: slice, step: float,
        group: dict[str, Any],
    ) -> None:  # fmt: skip
        """The step of some neighbouring values; moments are rounded after they were used."""
        beta1, beta2 = group["betas"]
        first = mean.read(part).lerp_(gradient, 1 - beta1)
        second = squares.read(part).mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        mean.write(part, first)
        squares.write(part, second)
        values.mul_(1 - group["lr"] * group["weight_decay"])
        scale = second.sqrt_().div_(math.sqrt(1 - beta2**step)).add_(group["eps"])
        values.addcdiv_(first, scale, value=-group["lr"] / (1 - beta1**step))


class _Moment:
    """A moment of one parameter, read and written a part at a time; a part begins at a block."""

    def __init__(self, state: dict[str, Tensor], name: str):
        self._values, self._scales = state[name], state.get(f"{name}_scale")
        self._signed = name == "exp_avg"

    def read(self, part: slice) -> Tensor:
        """Its values, float32, as a copy."""
        kept = self._values.view(-1)[part]
        if self._scales is None:
            return kept.clone()
        return widened(kept, self._scales[_blocks(part)], self._signed)

    def write(self, part: slice, values: Tensor) -> None:
        """Keep values, rounded."""
        kept = self._values.view(-1)[part]
        if self._scales is None:
            kept.copy_(values)
            return
        codes, scales = rounded(values, self._signed)
        kept.copy_(codes)
        self._scales[_blocks(part)] = scales


def _blocks(part: slice) -> slice:
    return slice(part.start // BLOCK, -(-part.stop // BLOCK))


def _begin(parameter: Tensor) -> dict[str, Tensor]:
    """The state of a parameter before its first step: moments of 0."""
    state = {"step": torch.zeros(())}
    for name in ("exp_avg", "exp_avg_sq"):
        if parameter.numel() < SMALL:
            state[name] = torch.zeros_like(parameter, memory_format=torch.contiguous_format)
            continue
        zero = int(table(name == "exp_avg", torch.device("cpu")).abs().argmin())
        state[name] = torch.full((parameter.numel(),), zero, dtype=torch.uint8, device=parameter.device)
        count = -(-parameter.numel() // BLOCK)
        state[f"{name}_scale"] = torch.zeros(count, device=parameter.device)
    return state


@cache
def table(signed: bool, device: torch.device) -> Tensor:
    """The 256 values that a code stands for, rising, from -0.993 or 0 to 1 (float32).

    The exponent is a power of ten. The smaller it is, the fewer bits are left for the fraction, whose
    values lie in the middle of equal parts of [0.1, 1].
    """
    values = [0.0, 1.0]
    for power in range(BITS):
        parts = 2**power if signed else 2 ** (power + 1)
        edges = torch.linspace(0.1, 1, parts + 1, dtype=torch.float32)
        middle = (edges[:-1] + edges[1:]) / 2 * 10.0 ** (power - BITS + 1)
        values += middle.tolist() + ((-middle).tolist() if signed else [])
    return torch.tensor(sorted(values), device=device)


@cache
def _nearest(signed: bool, device: torch.device) -> tuple[Tensor, Tensor]:
    """What finds the code nearest to a share without a search.

    Floats that agree in their upper 16 bits lie so close together that at most one middle between two
    codes is among them: the code of the least (int32, [65536] by those bits) is right, or the next is.

    Returns:
        those codes; the middle between each code and the next.
    """
    known = table(signed, torch.device("cpu"))
    middles = (known[:-1] + known[1:]) / 2
    upper = torch.arange(65536, dtype=torch.int64)
    ends = torch.stack([upper << 16, (upper << 16) | 0xFFFF]).to(torch.int32).view(torch.float32)
    codes = torch.bucketize(ends.nan_to_num(0.0).amin(0), middles, out_int32=True)
    return codes.to(device), torch.cat([middles, torch.tensor([math.inf])]).to(device)


def rounded(values: Tensor, signed: bool) -> tuple[Tensor, Tensor]:
    """Codes (uint8) and scales (one for each block, the last of which may be short) of values."""
    short = -values.numel() % BLOCK
    blocks = torch.nn.functional.pad(values, (0, short)).view(-1, BLOCK)
    scales = blocks.abs().amax(1)
    shares = (blocks / scales.clamp(min=torch.finfo(torch.float32).tiny).unsqueeze(1)).view(-1)
    least, middles = _nearest(signed, values.device)
    codes = least.index_select(0, (shares.view(torch.int32) >> 16) & 0xFFFF)
    codes += shares > middles.index_select(0, codes)
    return codes[: values.numel()].to(torch.uint8), scales


def widened(codes: Tensor, scales: Tensor, signed: bool) -> Tensor:
    """The values that codes and scales stand for, float32."""
    values = table(signed, codes.device).index_select(0, codes.int())
    whole = codes.numel() // BLOCK * BLOCK
    values[:whole].view(-1, BLOCK).mul_(scales[: whole // BLOCK].unsqueeze(1))
    if whole < codes.numel():
        values[whole:] *= scales[-1]
    return values
