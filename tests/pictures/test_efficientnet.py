"""EfficientNet-Lite: batch norms inside convolutions, held to a convolution and its norm."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from rung.pictures.efficientnet import SameConv, normalised


def pair(kernel: int, stride: int, depthwise: bool, seed: int) -> tuple[SameConv, nn.BatchNorm2d]:
    generator = torch.Generator().manual_seed(seed)
    conv = SameConv(6, 6, kernel, stride, 6 if depthwise else 1).double()
    norm = nn.BatchNorm2d(6, 1e-3).double().eval()
    for tensor in (conv.weight, norm.weight, norm.bias, norm.running_mean, norm.running_var):
        assert tensor is not None
        tensor.data.copy_(torch.randn(tensor.shape, generator=generator, dtype=torch.float64))
    assert norm.running_var is not None
    norm.running_var.abs_()
    return conv, norm


@settings(deadline=None, max_examples=30)
@given(st.sampled_from([1, 3, 5]), st.integers(1, 2), st.booleans(), st.integers(0, 99))
def test_outputs_and_gradients_are_those_of_a_norm_behind_a_convolution(
    kernel, stride, depthwise, seed
):
    conv, norm = pair(kernel, stride, depthwise, seed)
    x = torch.randn(2, 6, 7, 5, dtype=torch.float64, requires_grad=True)
    tensors = [x, conv.weight, norm.weight, norm.bias]
    found, wanted = normalised(conv, norm, x), norm(conv(x))
    assert torch.allclose(found, wanted, atol=1e-10)
    weight = torch.randn_like(wanted)
    for one, other in zip(
        torch.autograd.grad((found * weight).sum(), tensors),
        torch.autograd.grad((wanted * weight).sum(), tensors),
        strict=True,
    ):
        assert torch.allclose(one, other, atol=1e-9)


@pytest.mark.parametrize("how", ["training", "hook"])
def test_a_norm_that_learns_its_statistics_and_an_adapter_are_heeded(how):
    conv, norm = pair(3, 1, True, 1)
    if how == "training":
        norm.train()
    else:
        conv.register_forward_hook(lambda module, args, out: out + 1)
    x = torch.randn(2, 6, 7, 5, dtype=torch.float64)
    found = normalised(conv, norm, x)
    other, fixed = pair(3, 1, True, 1)
    wanted = fixed.train()(other(x)) if how == "training" else fixed(other(x) + 1)
    assert torch.allclose(found, wanted, atol=1e-12)
