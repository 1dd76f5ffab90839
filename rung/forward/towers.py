"""Towers: a vision and a text encoder, both frozen, and a projection of each into one space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from rung.errors import ArtefactError
from rung.types import Message, Picture, Prompt

SIDES = ("picture", "text")


class Pooled(Protocol):
    """What gives one vector of a picture: `rung.forward.picture_bank.PictureBank`."""

    encoder: Any

    def features(self, pictures: Sequence[Picture]) -> Tensor:
        """(n, d), each picture encoded once."""
        ...


class Towers:
    """Vectors of pictures and of texts that can be compared.

    Args:
        pictures: the vision encoder. texts: the sentence encoder, see `rung.bases.encoder.Encoder`.
        tensors: for each side of `SIDES` SIDE_weight (k, d), SIDE_mean and SIDE_scale (d,) of what the
            encoder gave in training; sharpness (1,), what cosines are multiplied by.
    """

    def __init__(self, pictures: Pooled, texts: Any, tensors: Mapping[str, Tensor]):
        self.pictures, self.texts, self.tensors = pictures, texts, dict(tensors)

    @property
    def width(self) -> int:
        """Numbers of a vector."""
        return len(self.tensors["picture_weight"])

    def project(self, side: str, vectors: Tensor) -> Tensor:
        """An encoder's vectors (n, d) -> (n, k), each of length 1."""
        t = self.tensors
        vectors = vectors.to(t[f"{side}_mean"].device)
        scaled = (vectors - t[f"{side}_mean"]) / t[f"{side}_scale"]
        return F.normalize(F.linear(scaled, t[f"{side}_weight"]), dim=1)

    def of_pictures(self, pictures: Sequence[Picture]) -> Tensor:
        """(n, k), each of length 1. Raises DataError for a picture that cannot be read."""
        return self.project("picture", self.pictures.features(pictures))

    def of_texts(self, texts: Sequence[str]) -> Tensor:
        """(n, k), each of length 1."""
        return self.project("text", self.texts.encode(texts))

    def of_prompts(self, prompts: Sequence[Prompt]) -> Tensor:
        """(n, k) on the CPU: of each prompt its last picture or, where it shows none, its text."""
        found = torch.empty(len(prompts), self.width)
        asked = [prompt.messages[-1] for prompt in prompts]
        shown = [i for i, message in enumerate(asked) if message.get("pictures")]
        said = [i for i in range(len(asked)) if i not in set(shown)]
        with torch.no_grad():
            if shown:
                found[shown] = self.of_pictures([asked[i]["pictures"][-1] for i in shown]).cpu()
            if said:
                found[said] = self.of_texts([asked[i]["content"] for i in said]).cpu()
        return found

    @classmethod
    def read(cls, pictures: Pooled, texts: Any, tensors: Mapping[str, Tensor]) -> Towers:
        """Of what a folder holds.

        Raises:
            ArtefactError: naming the tensor that is missing, of another shape, or not finite.
        """
        widths = {"picture": pictures.encoder.width, "text": texts.width}
        k = len(tensors["picture_weight"]) if "picture_weight" in tensors else 0
        shapes: dict[str, tuple[int, ...]] = {"sharpness": (1,)}
        for side, d in widths.items():
            shapes |= {f"{side}_weight": (k, d), f"{side}_mean": (d,), f"{side}_scale": (d,)}
        for name, shape in shapes.items():
            if name not in tensors or tuple(tensors[name].shape) != shape:
                raise ArtefactError(f"the towers have no {name} of shape {shape}: they are incomplete")
            if not bool(tensors[name].isfinite().all()):
                raise ArtefactError(f"the towers' {name} holds values that are not finite")
        return cls(pictures, texts, {name: tensors[name].float() for name in shapes})


def message_of(text: str) -> Message:
    """A text, or the `data:` URL of a picture, as a message for `Towers.of_prompts`.

    Raises:
        Missing: for a picture that cannot be read.
    """
    from rung.data.turns import turns

    if text.lower().startswith("data:"):
        part = {"type": "image_url", "image_url": {"url": text}}
        return turns([{"role": "user", "content": [part]}])[0]
    return {"role": "user", "content": text}
