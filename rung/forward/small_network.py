"""A small convolutional network on pictures that are made smaller: four convolutions and a mean."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from rung.errors import ArtefactError
from rung.forward.backbone import Backbone
from rung.forward.classifier import Classifier
from rung.forward.picture_bank import PictureBank, picture_of
from rung.types import Prompt

SIDE = 64  # pixels of what it reads
DEPTH = 4  # convolutions, each of stride 2
GROUPS = 8  # of a group norm


class SmallNetwork(Classifier):
    """Convolutions of stride 2 with group norms, the mean over places, and a linear layer.

    Args:
        tensors: conv.N (out, in, 3, 3), scale.N and shift.N (out,); weight (L, d), bias (L,).

    Raises:
        ArtefactError: for tensors that are no such network.
    """

    def __init__(self, labels: Sequence[str], tensors: dict[str, Tensor]):
        self.labels = tuple(labels)
        self.tensors = dict(tensors)
        channels = 3
        for n in range(DEPTH):
            conv = tensors.get(f"conv.{n}")
            fits = conv is not None and conv.dim() == 4 and tuple(conv.shape[1:]) == (channels, 3, 3)
            if not fits or conv.shape[0] % GROUPS:  # type: ignore[union-attr]
                raise ArtefactError(f"tensor conv.{n} is missing or of another shape")
            channels = conv.shape[0]  # type: ignore[union-attr]
            for name in (f"scale.{n}", f"shift.{n}"):
                _check(tensors, name, (channels,))
        _check(tensors, "weight", (len(labels), channels))
        _check(tensors, "bias", (len(labels),))

    @classmethod
    def fresh(cls, labels: Sequence[str], generator: torch.Generator, width: int) -> SmallNetwork:
        """Random weights (He et al., arXiv 1502.01852), the channels doubling from `width` on."""
        tensors: dict[str, Tensor] = {}
        width, channels = max(GROUPS, width // GROUPS * GROUPS), 3
        for n in range(DEPTH):
            out = width * 2 ** min(n, 2)
            spread = math.sqrt(2 / (9 * channels))
            tensors[f"conv.{n}"] = torch.randn(out, channels, 3, 3, generator=generator) * spread
            tensors[f"scale.{n}"], tensors[f"shift.{n}"] = torch.ones(out), torch.zeros(out)
            channels = out
        tensors["weight"] = torch.randn(len(labels), channels, generator=generator) * 0.01
        tensors["bias"] = torch.zeros(len(labels))
        return cls(labels, tensors)

    def parameters(self) -> dict[str, Tensor]:
        return self.tensors

    def to(self, device: torch.device) -> None:
        """Move the weights."""
        self.tensors = {n: t.to(device) for n, t in self.tensors.items()}

    def forward(self, pixels: Tensor) -> Tensor:
        """(n, 3, SIDE, SIDE) -> (n, L)."""
        x, t = pixels, self.tensors
        for n in range(DEPTH):
            x = F.conv2d(x, t[f"conv.{n}"], stride=2, padding=1)
            x = F.relu(F.group_norm(x, GROUPS, t[f"scale.{n}"], t[f"shift.{n}"]))
        return F.linear(x.mean(dim=(2, 3)), t["weight"], t["bias"])

    def probabilities(self, backbone: Backbone, slot: int, prompts: Sequence[Prompt]) -> Tensor:
        assert isinstance(backbone, PictureBank)
        if not prompts:
            return torch.empty(0, len(self.labels))
        with torch.no_grad():
            pixels = reduced(backbone.encoder.pixels([picture_of(p) for p in prompts]))
            return torch.softmax(self.forward(pixels.to(self.tensors["bias"].device)), dim=1).cpu()


def reduced(pixels: Tensor) -> Tensor:
    """(n, 3, h, w) -> (n, 3, SIDE, SIDE) float32, each pixel the mean of those it stands for."""
    return F.adaptive_avg_pool2d(pixels.float(), SIDE)


def _check(tensors: dict[str, Tensor], name: str, shape: tuple[int, ...]) -> None:
    if name not in tensors or tuple(tensors[name].shape) != shape:
        raise ArtefactError(f"tensor {name} is missing or not of shape {shape}")
    if not bool(tensors[name].isfinite().all()):
        raise ArtefactError(f"tensor {name} holds values that are not finite")
