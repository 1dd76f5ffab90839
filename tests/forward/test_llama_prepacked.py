"""Packed weights multiply as plain ones do, and are made only where they can be had."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from rung.forward.llama import prepacked
from rung.forward.llama.prepacked import Packing

LARGE = (600, 600)  # with enough numbers to be packed


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("rows", [1, 5, 32, 40, 300])
def test_products_are_the_same(transposed, rows):
    weights = [torch.randn(96, 64) for _ in range(2)]
    if transposed:
        weights = [w.t().contiguous().t() for w in weights]
    packed = Packing(rows=32, gain=None, min_numbers=1).pack(weights)
    assert packed is not None
    x, bias = torch.randn(rows, 64), torch.randn(96)
    for weight, one in zip(weights, packed, strict=True):
        expected = F.linear(x, weight, bias)
        assert torch.allclose(prepacked.multiply(x, one, bias), expected, atol=1e-4)


def test_only_where_it_is_a_gain():
    large = [torch.randn(LARGE)]
    assert Packing(rows=32, gain=1e9).pack(large) is not None
    assert Packing(rows=32, gain=0.0).pack(large) is None
    assert Packing(rows=32, gain=None).pack(large) is not None


def test_only_where_it_can_be_had():
    large = [torch.randn(LARGE)]
    assert Packing(rows=32, gain=None).pack([torch.randn(8, 8)]) is None
    assert Packing(rows=prepacked.MIN_ROWS - 1, gain=None).pack(large) is None
    assert Packing(rows=32, gain=None).pack([large[0].bfloat16()]) is None
    assert Packing(rows=32, gain=None, spare=1e9).pack(large) is None


def test_what_does_not_agree_is_not_taken(monkeypatch):
    multiply = prepacked.multiply
    monkeypatch.setattr(prepacked, "multiply", lambda *args: multiply(*args) * 1.01)
    assert Packing(rows=32, gain=None).pack([torch.randn(LARGE)]) is None


def test_few_and_many_rows_keep_the_plain_product():
    decoding, reading = Packing(rows=8), Packing(rows=2048, max_rows=None)
    assert [decoding.suits(n) for n in (3, 4, 128, 129)] == [False, True, True, False]
    assert [reading.suits(n) for n in (3, 4, 5000)] == [False, True, True]
