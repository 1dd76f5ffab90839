"""Packed weights multiply as plain ones do, and are made only where they can be had."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from rung.forward.llama import prepacked


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("rows", [1, 5, 32, 40])
def test_products_are_the_same(transposed, rows, monkeypatch):
    monkeypatch.setattr(prepacked, "GAIN", 1e9)
    monkeypatch.setattr(prepacked, "LEAST", 1)
    weights = [torch.randn(96, 64) for _ in range(2)]
    if transposed:
        weights = [w.t().contiguous().t() for w in weights]
    packed = prepacked.pack(weights, 32)
    assert packed is not None
    x, bias = torch.randn(rows, 64), torch.randn(96)
    for weight, one in zip(weights, packed, strict=True):
        expected = F.linear(x, weight, bias)
        assert torch.allclose(prepacked.multiply(x, one, bias), expected, atol=1e-4)


def test_only_where_it_is_a_gain(monkeypatch):
    large = [torch.randn(600, 600)]
    assert prepacked.pack([torch.randn(8, 8)], 32) is None
    assert prepacked.pack(large, prepacked.FEW - 1) is None
    assert prepacked.pack([large[0].bfloat16()], 32) is None
    monkeypatch.setattr(prepacked, "GAIN", 0.0)
    assert prepacked.pack(large, 32) is None
    monkeypatch.setattr(prepacked, "GAIN", 1e9)
    monkeypatch.setattr(prepacked, "SPARE", 1e9)
    assert prepacked.pack(large, 32) is None


def test_what_does_not_agree_is_not_taken(monkeypatch):
    monkeypatch.setattr(prepacked, "GAIN", 1e9)
    multiply = prepacked.multiply
    monkeypatch.setattr(prepacked, "multiply", lambda *args: multiply(*args) * 1.01)
    assert prepacked.pack([torch.randn(600, 600)], 32) is None
