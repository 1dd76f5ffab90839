"""A linear probe: labels from a linear layer over features of a frozen model.

The features are hidden states of the bank's own base at one layer, so nothing above that layer is run,
or the vectors of a sentence encoder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from rung.bases.encoder import Encoder
from rung.forward import feature_cache
from rung.forward.backbone import Backbone
from rung.forward.classifier import Classifier
from rung.forward.features import Frame, pooled
from rung.types import Prompt


class Reading(Protocol):
    """Where a probe's features come from."""

    def features(self, backbone: Backbone, prompts: Sequence[Prompt]) -> Tensor:
        """(N, d) float32 on the CPU."""
        ...  # fmt: skip


@dataclass(frozen=True)
class StateReading:
    """Hidden states of the base that enter `layer`, pooled over the prompt; see `features.pooled`."""

    layer: int
    pooling: str
    frame: Frame

    def features(self, backbone: Backbone, prompts: Sequence[Prompt]) -> Tensor:
        found = pooled(backbone, [p.ids for p in prompts], [self.layer], self.frame)
        return found[f"{self.layer}.{self.pooling}"]


@dataclass(frozen=True)
class EncoderReading:
    """Vectors of a sentence encoder, which reads the last user message alone."""

    encoder: Encoder

    def features(self, backbone: Backbone, prompts: Sequence[Prompt]) -> Tensor:
        return self.encoder.encode([p.question for p in prompts])


def encoded(encoder: Encoder, texts: Sequence[str], stopping: Callable[[], bool]) -> Tensor:
    """An encoder's vectors of texts, (N, d), kept on disk for later runs."""
    rows = feature_cache.digest(tuple(text.encode()) for text in texts)
    name = feature_cache.named(encoder.digest, "encoder", encoder.pooling, encoder.normalised, rows)
    shape = ((len(texts), encoder.width), torch.float32)

    def fill(into: dict[str, Tensor]) -> None:
        into["vectors"].copy_(encoder.encode(texts, stopping))

    found = feature_cache.keep(name, {"vectors": shape}, fill)
    return found["vectors"] if found is not None else encoder.encode(texts, stopping)


class Probe(Classifier):
    """Standardised features through a linear layer and a softmax.

    Args:
        labels: L names. weight (L, d), bias (L,); mean, scale (d,) of the features in training.
    """

    def __init__(self, labels: Sequence[str], reading: Reading, tensors: dict[str, Tensor]):
        self.labels = tuple(labels)
        self.reading = reading
        self.weight, self.bias = tensors["weight"], tensors["bias"]
        self.mean, self.scale = tensors["mean"], tensors["scale"]

    def parameters(self) -> dict[str, Tensor]:
        return {"weight": self.weight, "bias": self.bias, "mean": self.mean, "scale": self.scale}

    def probabilities(self, backbone: Backbone, slot: int, prompts: Sequence[Prompt]) -> Tensor:
        """(N, labels) float32, each row summing to 1; one pass over what is asked, shared as a trie."""
        if not prompts:
            return torch.empty(0, len(self.labels))
        with torch.no_grad():
            features = self.reading.features(backbone, prompts).to(self.weight.device)
            return torch.softmax(self.logits(features), dim=1).cpu()

    def logits(self, features: Tensor) -> Tensor:
        """(N, d) -> (N, labels)."""
        standard = (features - self.mean) / self.scale
        return torch.nn.functional.linear(standard, self.weight, self.bias)
