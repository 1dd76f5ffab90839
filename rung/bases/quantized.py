"""Weights kept in 8 or 4 bits, computed with in the base's own precision.

A `Quantized` stands where a weight stood, with its shape, its device and the precision that is computed
in, but holds codes. Products and look-ups turn a bounded part of it back into numbers as they go; any
other operation gets the whole weight turned back. Forward and gradient are those of the weight that the
codes stand for, so adapters, seams and losses need not know of it. The weight itself is never trained.

Where `integers` is set on a weight (`forward/compiled/` does), products within torch's inference mode,
as in serving, evaluation and scoring, multiply codes with inputs that are coded too. Elsewhere, as in
training, they are those of the weight that the codes stand for.

Three codes: `int8`, whole numbers with a scale for each row; `int4`, 16 even steps between the least
and the largest of each 32 weights of a row, as GGUF's Q4_1; `nf4`, four bits with a scale for each
block of 64 (QLoRA, arXiv 2305.14314), whose kernels are those of bitsandbytes, for CPU and CUDA alike.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor

PART = 1 << 20  # weights turned back at once: what stays in the caches of a CPU core
GROUP = 32  # weights of a row that share a step in int4
BLOCK = 64  # weights that share a scale in nf4
aten = torch.ops.aten


class Quantized(torch.Tensor):
    """A frozen matrix (rows, columns) as codes. Subclasses say how codes are made and read."""

    held: tuple[Tensor, ...]
    integers: Callable[[Tensor], Tensor | None] | None = None  # x (n, columns) -> about x W' (n, rows)

    @staticmethod
    def __new__(cls, shape: torch.Size, dtype: torch.dtype, *held: Tensor) -> Quantized:
        with torch.inference_mode(False):  # autograd refuses views that are made within it
            return torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
                cls, shape, dtype=dtype, device=held[0].device, requires_grad=False
            )

    def __init__(self, shape: torch.Size, dtype: torch.dtype, *held: Tensor):
        self.held = held

    @classmethod
    def of(cls, weight: Tensor, dtype: torch.dtype) -> Quantized:
        """The codes of a weight (rows, columns), to be computed with in `dtype`."""
        raise NotImplementedError

    def rows(self, first: int, last: int, dtype: torch.dtype) -> Tensor:
        """The weight's rows [first, last); `first` is a multiple of 64."""
        raise NotImplementedError

    def take(self, ids: Tensor) -> Tensor:
        """The rows that `ids` name, whatever its shape: (...,) -> (..., columns)."""
        raise NotImplementedError

    @property
    def nbytes_held(self) -> int:
        """Bytes of memory that the codes and their scales take."""
        return sum(t.numel() * t.element_size() for t in self.held)

    def parts(self) -> Iterator[tuple[int, int]]:
        """Ranges of rows of about `PART` weights."""
        step = max(1, PART // max(1, self.shape[1]) // BLOCK) * BLOCK
        for first in range(0, self.shape[0], step):
            yield first, min(first + step, self.shape[0])

    def whole(self, dtype: torch.dtype | None = None) -> Tensor:
        """The weight that the codes stand for."""
        dtype = dtype or self.dtype
        out = torch.empty(self.shape, dtype=dtype, device=self.device)
        for first, last in self.parts():
            out[first:last] = self.rows(first, last, dtype)
        return out

    def product(self, x: Tensor) -> Tensor:
        """x (n, columns) -> x W' (n, rows), within inference mode by whole numbers where they serve."""
        if self.integers is not None and torch.is_inference_mode_enabled():
            found = self.integers(x)
            if found is not None:
                return found
        return self.onto_rows(x)

    def onto_rows(self, x: Tensor) -> Tensor:
        """x (n, columns) -> x W' (n, rows)."""
        out = x.new_empty(x.shape[0], self.shape[0])
        for first, last in self.parts():
            torch.mm(x, self.rows(first, last, x.dtype).t(), out=out[:, first:last])
        return out

    def onto_columns(self, x: Tensor) -> Tensor:
        """x (n, rows) -> x W (n, columns)."""
        out = x.new_zeros(x.shape[0], self.shape[1])
        for first, last in self.parts():
            out.addmm_(x[:, first:last], self.rows(first, last, x.dtype))
        return out

    def again(self, dtype: torch.dtype | None = None) -> Quantized:
        """The same codes, shared, under another precision to compute in."""
        out = type(self)(self.shape, dtype or self.dtype, *self.held)
        out.integers = self.integers
        return out

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"{type(self).__name__}({tuple(self.shape)}, {self.dtype}, {self.device})"

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        out = kwargs.pop("out", None)
        known = _KNOWN.get(func)
        result = func.decompose(*args, **kwargs) if known is None else known(*args, **kwargs)
        if result is NotImplemented:
            result = func(*map(_plain, args), **{k: _plain(v) for k, v in kwargs.items()})
        return result if out is None else out.copy_(result)


class Int8(Quantized):
    """held: codes (rows, columns) int8, scales (rows,) in the precision that is computed in."""

    @classmethod
    def of(cls, weight: Tensor, dtype: torch.dtype) -> Int8:
        codes = torch.empty(weight.shape, dtype=torch.int8, device=weight.device)
        scales = torch.empty(weight.shape[0], dtype=dtype, device=weight.device)
        step = max(1, PART // max(1, weight.shape[1]))
        for first in range(0, weight.shape[0], step):
            part = weight[first : first + step].float()
            # Codes follow the scale as it is kept, so that its rounding costs nothing.
            scale = (part.abs().amax(1) / 127).clamp(min=1e-30).to(dtype)
            scales[first : first + step] = scale
            coded = (part / scale.float()[:, None]).round_().clamp_(-127, 127)
            codes[first : first + step] = coded.to(torch.int8)
        return cls(weight.shape, dtype, codes, scales)

    def rows(self, first: int, last: int, dtype: torch.dtype) -> Tensor:
        codes, scales = self.held
        return codes[first:last].to(dtype).mul_(scales[first:last, None].to(dtype))

    def take(self, ids: Tensor) -> Tensor:
        codes, scales = self.held
        return codes[ids].to(self.dtype).mul_(scales[ids][..., None].to(self.dtype))

    def onto_rows(self, x: Tensor) -> Tensor:
        codes, scales = self.held
        out = x.new_empty(x.shape[0], self.shape[0])
        for first, last in self.parts():
            torch.mm(x, codes[first:last].to(x.dtype).t(), out=out[:, first:last])
        return out.mul_(scales.to(x.dtype))

    def onto_columns(self, x: Tensor) -> Tensor:
        codes, scales = self.held
        scaled = x * scales.to(x.dtype)
        out = x.new_zeros(x.shape[0], self.shape[1])
        for first, last in self.parts():
            out.addmm_(scaled[:, first:last], codes[first:last].to(x.dtype))
        return out


class Int4(Quantized):
    """held: codes (rows, groups * 16) uint8, the first 16 weights of a group in the low halves; step
    and least of each group, (rows, groups) float16."""

    @classmethod
    def of(cls, weight: Tensor, dtype: torch.dtype) -> Int4:
        rows, groups = weight.shape[0], -(-weight.shape[1] // GROUP)
        codes = torch.empty(rows, groups * (GROUP // 2), dtype=torch.uint8, device=weight.device)
        steps = torch.empty(rows, groups, dtype=torch.float16, device=weight.device)
        least = torch.empty_like(steps)
        part = max(1, PART // max(1, weight.shape[1]))
        for first in range(0, rows, part):
            last = first + part
            own = torch.nn.functional.pad(weight[first:last].float(), (0, -weight.shape[1] % GROUP))
            coded, steps[first:last], least[first:last] = _even_steps(own.unflatten(1, (groups, GROUP)))
            low, high = coded.chunk(2, -1)
            codes[first:last] = (low | high << 4).flatten(1)
        return cls(weight.shape, dtype, codes, steps, least)

    def rows(self, first: int, last: int, dtype: torch.dtype) -> Tensor:
        codes, steps, least = self.held
        return self._numbers(codes[first:last], steps[first:last], least[first:last], dtype)

    def take(self, ids: Tensor) -> Tensor:
        codes, steps, least = self.held
        return self._numbers(codes[ids], steps[ids], least[ids], self.dtype)

    def _numbers(self, codes: Tensor, steps: Tensor, least: Tensor, dtype: torch.dtype) -> Tensor:
        halves = codes.unflatten(-1, (-1, GROUP // 2))
        whole = torch.cat((halves & 15, halves >> 4), -1).float()
        whole = whole.mul_(steps[..., None].float()).add_(least[..., None].float())
        return whole.flatten(-2)[..., : self.shape[1]].to(dtype)


def _even_steps(groups: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Choose codes (..., 32) uint8, and step and least of each group, by the smallest square error.

    Ends that lie somewhat further in cost the outermost weights a little and serve the others more.
    """
    low, high = groups.amin(-1), groups.amax(-1)
    best: tuple[Tensor, Tensor, Tensor] | None = None
    smallest = torch.full_like(low, float("inf"))
    for inward in (0.0, 0.03, 0.06):
        span = high - low
        least = (low + inward * span).half()
        # Codes follow step and least as they are kept, so that their rounding costs little.
        step = ((1 - 2 * inward) * span / 15).half()
        divisor = step.float().clamp(min=2.0**-24)[..., None]
        codes = ((groups - least.float()[..., None]) / divisor).round_().clamp_(0, 15)
        error = codes * step.float()[..., None] + least.float()[..., None] - groups
        squares = error.square_().sum(-1)
        if best is None:
            best, smallest = (codes, step, least), squares
            continue
        nearer = squares < smallest
        smallest = torch.where(nearer, squares, smallest)
        best = (
            torch.where(nearer[..., None], codes, best[0]),
            torch.where(nearer, step, best[1]),
            torch.where(nearer, least, best[2]),
        )
    assert best is not None
    return best[0].to(torch.uint8), best[1], best[2]


class Nf4(Quantized):
    """held: codes packed by two (rows x columns / 2, 1) uint8, a float32 scale per block, 16 values."""

    @classmethod
    def of(cls, weight: Tensor, dtype: torch.dtype) -> Nf4:
        flat = weight.float().reshape(-1)
        # As rows of whole blocks: the kernel for CPUs misreads rows that end within a block.
        blocks = torch.nn.functional.pad(flat, (0, -len(flat) % BLOCK)).view(-1, BLOCK)
        codes, state = _kernels().quantize_4bit(blocks, blocksize=BLOCK, quant_type="nf4")
        return cls(weight.shape, dtype, codes, state.absmax, state.code)

    def rows(self, first: int, last: int, dtype: torch.dtype) -> Tensor:
        codes, scales, values = self.held
        begin, end = first * self.shape[1], last * self.shape[1]  # begins with a block: see `parts`
        one, other = begin // BLOCK, -(-end // BLOCK)
        kernels = _kernels()
        shape = torch.Size((other - one, BLOCK))
        state = kernels.QuantState(scales[one:other], shape, values, BLOCK, "nf4", dtype)
        blocks = kernels.dequantize_4bit(codes[one * BLOCK // 2 : other * BLOCK // 2], state)
        return blocks.view(-1)[: end - begin].view(last - first, self.shape[1])

    def take(self, ids: Tensor) -> Tensor:
        return self.whole()[ids]


@cache
def _kernels() -> Any:
    """bitsandbytes' functions, without its advice to fetch kernels that are not used here."""
    logger = logging.getLogger("bitsandbytes")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        from bitsandbytes import functional
    finally:
        logger.setLevel(level)
    return functional


class Turned(Quantized):
    """A quantised weight (rows, columns) seen as (columns, rows), on its way into a product."""

    weight: Quantized

    @classmethod
    def around(cls, weight: Quantized) -> Turned:
        turned = cls(torch.Size((weight.shape[1], weight.shape[0])), weight.dtype, *weight.held)
        turned.weight = weight
        return turned

    def whole(self, dtype: torch.dtype | None = None) -> Tensor:
        return self.weight.whole(dtype or self.dtype).t()

    def again(self, dtype: torch.dtype | None = None) -> Turned:
        return Turned.around(self.weight.again(dtype))


def _plain(value: Any) -> Any:
    """An argument with every quantised weight in it turned back."""
    if isinstance(value, Quantized):
        return value.whole()
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(v) for v in value)
    return value


# What is done with codes. Each answers NotImplemented where it is not meant for the arguments.


def _product(x: Any, weight: Any) -> Any:
    if isinstance(x, Quantized) or x.dtype != weight.dtype:
        return NotImplemented
    return weight.weight.product(x) if isinstance(weight, Turned) else weight.onto_columns(x)


def _product_and_sum(bias: Any, x: Any, weight: Any, *, beta: float = 1, alpha: float = 1) -> Any:
    if (beta, alpha) != (1, 1) or not isinstance(weight, Quantized) or isinstance(bias, Quantized):
        return NotImplemented
    product = _product(x, weight)
    return product if product is NotImplemented else product.add_(bias)


def _linear(x: Tensor, weight: Any, bias: Tensor | None = None) -> Any:
    if not isinstance(weight, Quantized):
        return NotImplemented
    product = _product(x.reshape(-1, x.shape[-1]), Turned.around(weight))
    if product is NotImplemented:
        return product
    product = product if bias is None else product.add_(bias)
    return product.view(*x.shape[:-1], product.shape[-1])


def _matmul(x: Any, weight: Any) -> Any:
    if not isinstance(weight, Quantized) or isinstance(x, Quantized):
        return NotImplemented
    product = _product(x.reshape(-1, x.shape[-1]), weight)
    return product if product is NotImplemented else product.view(*x.shape[:-1], product.shape[-1])


def _look_up(weight: Any, ids: Any, *_: Any, **__: Any) -> Any:
    if not isinstance(weight, Quantized) or isinstance(weight, Turned):
        return NotImplemented
    return weight.take(ids)


def _index(weight: Any, ids: Any) -> Any:
    first = ids[0]
    if len(ids) != 1 or first is None or first.dtype == torch.bool:
        return NotImplemented
    return _look_up(weight, first)


def _copied(weight: Quantized, *, dtype: Any = None, device: Any = None, **_: Any) -> Any:
    elsewhere = device is not None and torch.device(device) != weight.device
    if elsewhere or not (dtype or weight.dtype).is_floating_point:
        return NotImplemented
    return weight.again(dtype)


_KNOWN: dict[Any, Callable[..., Any]] = {
    aten.t.default: lambda w: w.weight.again() if isinstance(w, Turned) else Turned.around(w),
    aten.mm.default: _product,
    aten.mm.out: _product,
    aten.addmm.default: _product_and_sum,
    aten.linear.default: _linear,
    aten.matmul.default: _matmul,
    aten.embedding.default: _look_up,
    aten.index_select.default: lambda w, at, ids: _look_up(w, ids) if at == 0 else NotImplemented,
    aten.index.Tensor: _index,
    aten.detach.default: lambda w: w.again(),
    aten.alias.default: lambda w: w.again(),
    aten.clone.default: lambda w, **_: w.again(),  # codes are never written to
    aten._to_copy.default: _copied,
}
