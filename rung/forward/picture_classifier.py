"""Classifiers of pictures: linear over an encoder's vectors, or by nearness to one of each label."""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from rung.forward.adapter import Adapter
from rung.forward.backbone import Backbone
from rung.forward.classifier import Classifier
from rung.forward.picture_bank import PictureBank, picture_of
from rung.forward.towers import Towers
from rung.pictures.encoder import PictureEncoder
from rung.types import Prompt

PLAIN = ("a photo of a {}.",)


class PictureClassifier(Classifier):
    """Labels from the vector that the encoder, with the slot's own weights, gives of a picture.

    Args:
        labels: L names.
    """

    def __init__(self, labels: Sequence[str]):
        self.labels = tuple(labels)

    def logits(self, vectors: Tensor) -> Tensor:
        """(n, d) -> (n, L)."""
        raise NotImplementedError

    def probabilities(self, backbone: Backbone, slot: int, prompts: Sequence[Prompt]) -> Tensor:
        assert isinstance(backbone, PictureBank)
        with torch.no_grad():
            vectors = backbone.features([picture_of(p) for p in prompts], slot)
            weights = next(iter(self.parameters().values()))
            return torch.softmax(self.logits(vectors.to(weights.device)), dim=1).cpu()


class Linear(PictureClassifier):
    """Standardised vectors through a linear layer.

    Args:
        tensors: weight (L, d), bias (L,); mean, scale (d,) of the vectors in training.
    """

    def __init__(self, labels: Sequence[str], tensors: dict[str, Tensor]):
        super().__init__(labels)
        self.weight, self.bias = tensors["weight"], tensors["bias"]
        self.mean, self.scale = tensors["mean"], tensors["scale"]

    def parameters(self) -> dict[str, Tensor]:
        return {"weight": self.weight, "bias": self.bias, "mean": self.mean, "scale": self.scale}

    def logits(self, vectors: Tensor) -> Tensor:
        return F.linear((vectors - self.mean) / self.scale, self.weight, self.bias)


class Nearest(PictureClassifier):
    """Cosine with one vector for each label, times a temperature's inverse.

    Args:
        tensors: vectors (L, d) of length 1; sharpness (1,), what cosines are multiplied by.
    """

    def __init__(self, labels: Sequence[str], tensors: dict[str, Tensor]):
        super().__init__(labels)
        self.vectors, self.sharpness = tensors["vectors"], tensors["sharpness"]

    def parameters(self) -> dict[str, Tensor]:
        return {"vectors": self.vectors, "sharpness": self.sharpness}

    def logits(self, vectors: Tensor) -> Tensor:
        return self.sharpness * F.normalize(vectors, dim=1) @ self.vectors.T

    @classmethod
    def by_name(
        cls, encoder: PictureEncoder, labels: Sequence[str], templates: Sequence[str] = PLAIN
    ) -> Nearest:
        """Labels by their names in templates. Raises MethodMisfit where the encoder reads no texts."""
        vectors = label_vectors(encoder, labels, templates)
        return cls(labels, {"vectors": vectors, "sharpness": torch.tensor([encoder.scale])})


class OfTowers(Classifier):
    """Labels by their names, by the nearness of their vectors to a picture's in the space of towers.

    Args:
        templates: sentences with {} for a label.
    """

    def __init__(self, towers: Towers, labels: Sequence[str], templates: Sequence[str] = ("{}",)):
        self.towers, self.labels = towers, tuple(labels)
        texts = [t.replace("{}", readable(label)) for label in labels for t in templates]
        with torch.no_grad():
            found = towers.of_texts(texts).view(len(labels), len(templates), -1)
        self.vectors = F.normalize(found.mean(1), dim=1)

    def parameters(self) -> dict[str, Tensor]:
        return {"vectors": self.vectors}

    def probabilities(self, backbone: Backbone, slot: int, prompts: Sequence[Prompt]) -> Tensor:
        with torch.no_grad():
            seen = self.towers.of_pictures([picture_of(p) for p in prompts])
            return torch.softmax(self.towers.tensors["sharpness"] * seen @ self.vectors.T, dim=1)


class Beside(Classifier):
    """A classifier of pictures behind the bank of a language model: its own encoder's bank answers.

    Args:
        bank: of the encoder; it holds the adapter as long as this object lives.
        adapter: whose classifier is a `PictureClassifier`.
    """

    def __init__(self, bank: PictureBank, adapter: Adapter):
        assert adapter.classifier is not None
        self.bank, self.inner, self.slot = bank, adapter.classifier, bank.add(adapter)
        self.labels = self.inner.labels
        weakref.finalize(self, bank.remove, self.slot)

    def parameters(self) -> dict[str, Tensor]:
        return self.inner.parameters()

    def probabilities(self, backbone: Backbone, slot: int, prompts: Sequence[Prompt]) -> Tensor:
        return self.inner.probabilities(self.bank, self.slot, prompts)


def label_vectors(encoder: PictureEncoder, labels: Sequence[str], templates: Sequence[str]) -> Tensor:
    """The vectors that a text tower gives of labels: (L, d) float32, each of length 1.

    Each name in each template is encoded and normalised, and a label's vector is the normalised mean
    over templates, as CLIP's zero-shot classifiers are made (arXiv 2103.00020).

    Raises:
        MethodMisfit: the encoder has no text tower.
    """
    texts = [t.replace("{}", readable(label)) for label in labels for t in templates]
    found = F.normalize(encoder.texts(texts), dim=1).view(len(labels), len(templates), -1)
    return F.normalize(found.mean(1), dim=1)


def readable(label: str) -> str:
    """A label as words: `green_apple` and `green-apple` are names of folders."""
    return " ".join(label.replace("_", " ").replace("-", " ").split())
