"""The structures of decode.cpp, as ctypes lays them out, and what fills them."""

from __future__ import annotations

import ctypes as c
from typing import Any

import torch
from torch import Tensor

from rung.bases.quantized import Int4, Int8

PARTS = 7  # projections of a layer: queries, keys, values, output, gate, up, down
FLOAT32, INT8, INT4 = range(3)  # kinds of weights


class Weight(c.Structure):
    """A weight (rows, columns), one row behind the other; of codes once more in panels, or 0."""

    _fields_ = [
        ("data", c.c_void_p), ("scales", c.c_void_p), ("least", c.c_void_p), ("bias", c.c_void_p),
        ("panels", c.c_void_p),
        ("rows", c.c_int64), ("columns", c.c_int64), ("kind", c.c_int64),
    ]  # fmt: skip


class Layer(c.Structure):
    """A layer's projections and its two norms."""

    _fields_ = [("weights", Weight * PARTS), ("norms", c.c_void_p * 2), ("epsilons", c.c_float * 2)]


class Change(c.Structure):
    """What an adapter does at one projection."""

    _fields_ = [("a", c.c_void_p), ("b", c.c_void_p), ("added", c.c_void_p), ("rank", c.c_int64)]


class Base(c.Structure):
    """A base's shape and its layers."""

    _fields_ = [
        ("layers", c.c_void_p), ("norm", c.c_void_p), ("count", c.c_int64), ("width", c.c_int64),
        ("heads", c.c_int64), ("key_heads", c.c_int64), ("head_width", c.c_int64),
        ("inner", c.c_int64), ("epsilon", c.c_float), ("scaling", c.c_float),
    ]  # fmt: skip


class Step(c.Structure):
    """One step: its rows, where they stand, and what enters and leaves."""

    _fields_ = [
        ("rows", c.c_int64), ("capacity", c.c_int64), ("max_rank", c.c_int64), ("threads", c.c_int64),
        ("lanes", c.c_void_p), ("positions", c.c_void_p), ("entering", c.c_void_p),
        ("cosines", c.c_void_p), ("sines", c.c_void_p), ("keys", c.c_void_p), ("values", c.c_void_p),
        ("adapters", c.c_void_p), ("leaving", c.c_void_p),
    ]  # fmt: skip


def readable(weight: Any) -> bool:
    """Whether the compiled code reads a weight as it is held."""
    if type(weight) is Int8:
        return weight.held[0].is_contiguous() and weight.held[1].dtype == torch.float32
    if type(weight) is Int4:
        return all(held.is_contiguous() for held in weight.held)
    plain = type(weight) in (torch.nn.Parameter, Tensor)
    return plain and weight.dtype == torch.float32 and weight.device.type == "cpu"


def weight_of(weight: Any, bias: Tensor | None) -> tuple[Weight, list[Tensor]]:
    """The structure of a weight that is `readable`, and the tensors that must outlive it."""
    rows, columns = weight.shape
    codes = {Int8: INT8, Int4: INT4}.get(type(weight))
    held = [weight.detach().contiguous()] if codes is None else list(weight.held)
    data, scales, least = (*(t.data_ptr() for t in held), 0, 0)[:3]
    at = 0
    if bias is not None:
        held.append(bias.detach().float().contiguous())
        at = held[-1].data_ptr()
    return Weight(data, scales, least, at, 0, rows, columns, FLOAT32 if codes is None else codes), held
