"""Products of int8 and int4 weights with inputs that are coded too, by the compiled library.

An input row is coded in int8 with a scale for each 32 of its numbers. Sums of products of codes are
whole numbers, exact on every processor, and are scaled in float32 in one order, so that what comes out
for a row does not depend on other rows. The weights are read as they are held; `lay` holds them once
more in the order in which they are multiplied, for steps of few rows, and the same numbers come out.

Prefill, decoding and scoring of a base all compute so, or none of them does, since keys and values that
one has written are read by the others. Who trains computes with float32 inputs: gradients need them.
"""

from __future__ import annotations

import ctypes as c
import logging
from functools import cached_property
from typing import Any

import psutil
import torch
from torch import Tensor

from rung.bases.quantized import Int4, Int8, Quantized
from rung.forward.backbone import Backbone
from rung.forward.compiled import compiler
from rung.forward.compiled.structures import readable, weight_of

MIN_NUMBERS = 1 << 20  # in the table of embeddings of a base that this is worth compiling for
SPARE = 4  # times the bytes of all codes that must be free for them to be held once more
MAX_ERROR = 0.05  # of the length of a product, by coding its input; 0.005 is usual

log = logging.getLogger("rung.forward")


class Integers:
    """The compiled library for a base's products; compiled when first asked."""

    @cached_property
    def library(self) -> Any:
        """The library; None where there is none, or where it computes something else."""
        found = compiler.library()
        if found is None or all(_is_right(found, code) for code in (Int8, Int4)):
            return found
        log.warning("products of codes go through torch: compiled ones differ")
        return None


class Product:
    """x (n, columns) -> about x W' (n, rows), for one weight."""

    def __init__(self, integers: Integers, weight: Quantized):
        self.integers = integers
        self.structure, self.held = weight_of(weight, None)

    def __call__(self, x: Tensor) -> Tensor | None:
        """None where x is not float32, or nothing can be compiled."""
        library = self.integers.library
        if library is None or x.dtype != torch.float32:
            return None
        return multiply(library, self.structure, x)

    def lay(self) -> None:
        """Hold the codes once more, in panels."""
        library = self.integers.library
        if library is not None and not self.structure.panels:
            panels = panels_of(library, self.structure)
            self.structure.panels = panels.data_ptr()
            self.held.append(panels)

    def __deepcopy__(self, memo: Any) -> Product:
        return self  # codes are never written to


def multiply(library: Any, weight: Any, x: Tensor) -> Tensor:
    """x (n, columns) and a weight's structure -> (n, rows)."""
    x = x.contiguous()
    out = x.new_empty(len(x), weight.rows)
    library.rung_product(
        c.byref(weight), c.c_void_p(x.data_ptr()), c.c_int64(len(x)), c.c_void_p(out.data_ptr()),
        c.c_int64(torch.get_num_threads()),
    )  # fmt: skip
    return out


def panels_of(library: Any, weight: Any) -> Tensor:
    """The codes of a weight's structure as `products.h` lays them out: (bytes,) uint8."""
    library.rung_panel_bytes.restype = c.c_int64
    panels = torch.empty(library.rung_panel_bytes(c.byref(weight)), dtype=torch.uint8)
    library.rung_lay(c.byref(weight), c.c_void_p(panels.data_ptr()), c.c_int64(torch.get_num_threads()))
    return panels


def attach(backbone: Backbone, min_numbers: int = MIN_NUMBERS) -> Integers | None:
    """Let a base's weights of codes multiply by whole numbers within inference mode.

    Args:
        min_numbers: in the table of embeddings; with fewer, compiling is not worth its time.

    Returns:
        what they share; None where nothing is coded, or it is not on a CPU in float32.
    """
    held: list[Any] = list(backbone.model.parameters())
    weights = [w for w in held if type(w) in (Int8, Int4) and readable(w)]
    if not weights or backbone.device.type != "cpu" or backbone.table_size < min_numbers:
        return None
    integers = Integers()
    for weight in weights:
        weight.integers = Product(integers, weight)
    return integers


def lay(backbone: Backbone) -> None:
    """Hold a base's codes once more, for steps of few rows, where memory is plentiful."""
    if 0 < SPARE * layable_bytes(backbone) <= psutil.virtual_memory().available:
        for weight in _multiplied(backbone):
            weight.integers.lay()


def layable_bytes(backbone: Backbone) -> int:
    """Bytes that `lay` may still take, at most."""
    left = (w for w in _multiplied(backbone) if not w.integers.structure.panels)
    return sum(w.nbytes_held for w in left)


def _multiplied(backbone: Backbone) -> list[Any]:
    """The weights whose codes are multiplied by whole numbers."""
    held: list[Any] = list(backbone.model.parameters())
    return [w for w in held if isinstance(w, Quantized) and isinstance(w.integers, Product)]


def detach(backbone: Backbone) -> None:
    """Take out what `attach` has set."""
    for weight in backbone.model.parameters():
        if isinstance(weight, Quantized):
            weight.integers = None


def _is_right(library: Any, code: type[Quantized]) -> bool:
    """Whether a small product is about that of the weight that the codes stand for."""
    draw = torch.Generator().manual_seed(0)
    weight = code.of(torch.randn(37, 100, generator=draw), torch.float32)
    x = torch.randn(15, 100, generator=draw)
    exact, found = weight.onto_rows(x), multiply(library, weight_of(weight, None)[0], x)
    return bool((found - exact).norm() <= MAX_ERROR * exact.norm())
