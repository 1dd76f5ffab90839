"""EfficientNet-Lite: batch norms inside convolutions, held to a convolution and its norm."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from rung.bases.efficientnet import CONFIG, PREPROCESSING
from rung.ladder.knobs import ClimbKnobs
from rung.ladder.plan import plan
from rung.pictures.efficientnet import EfficientNetLite, SameConv, normalised
from tests.pictures.conftest import SIDE


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


@pytest.fixture
def small(tmp_path):
    """A folder with a network of two blocks."""
    groups = [[1, 3, 1, 1, 8, 8], [1, 3, 2, 2, 8, 12]]
    config = {**CONFIG, "image_size": SIDE, "stem": 8, "groups": groups, "hidden_size": 16}
    size = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
    folder = tmp_path / "small"
    folder.mkdir()
    tensors = {n: t for n, t in EfficientNetLite(config).state_dict().items() if t.ndim}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSING | size))
    return folder


def test_a_climb_is_planned_and_says_which_methods_do_not_fit(small, photos, rung_home):
    given = {"data": str(photos), "base": str(small), "dtype": "float32", "device": "cpu"}
    found = plan({**given, "validation": 0.2, "test": 0.2}, ClimbKnobs())
    why = {row.key: row.reason for row in found.rows}
    assert "built of convolutions" in why["lora"]
    assert why["linear_probe"] is why["last_layers"] is None
