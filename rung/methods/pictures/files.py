"""Picture classifiers in a model's folder: settings, tensors, and what is refused in reading them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rung.artefacts import folders
from rung.errors import ArtefactError
from rung.forward.picture_bank import PictureBank
from rung.forward.picture_classifier import Linear, Nearest
from rung.methods import layers

if TYPE_CHECKING:
    from torch import Tensor

    from rung.forward.adapter import Adapter
    from rung.forward.bank import Bank
    from rung.forward.picture_classifier import PictureClassifier

# What stands beside an adapter in PEFT's layout, which has no place for a classifier of its own.
CLASSIFIER, CLASSIFIER_TENSORS = "classifier.json", "classifier.safetensors"


def written(labels: Sequence[str], bank: Bank) -> dict[str, Any]:
    """Settings that every picture classifier is kept with."""
    assert isinstance(bank, PictureBank)
    return {"labels": list(labels), "preprocessing": bank.encoder.preprocessing.as_dict()}


def read_labels(settings: dict[str, Any], bank: Bank) -> tuple[str, ...]:
    """The labels of a kept classifier.

    Raises:
        ArtefactError: for labels that are none, or pictures that the base prepares otherwise.
    """
    assert isinstance(bank, PictureBank)
    labels = layers.labels(settings)
    if settings.get("preprocessing") != bank.encoder.preprocessing.as_dict():
        raise ArtefactError(
            "settings.json: this model was made of pictures prepared in another way than its base "
            "prepares them now: use the base it was made from"
        )
    return labels


def read_linear(labels: Sequence[str], tensors: dict[str, Tensor], width: int) -> Linear:
    """A kept linear classifier. Raises ArtefactError naming the tensor that is wrong."""
    shapes = {
        "weight": (len(labels), width),
        "bias": (len(labels),),
        "mean": (width,),
        "scale": (width,),
    }
    read = {name: layers.tensor(tensors, name, shape) for name, shape in shapes.items()}
    if not bool((read["scale"] > 0).all()):
        raise ArtefactError("tensor scale holds values that are not above zero")
    return Linear(labels, read)


def read_nearest(labels: Sequence[str], tensors: dict[str, Tensor], width: int) -> Nearest:
    """A kept classifier by nearness. Raises ArtefactError naming the tensor that is wrong."""
    shapes = {"vectors": (len(labels), width), "sharpness": (1,)}
    return Nearest(labels, {name: layers.tensor(tensors, name, s) for name, s in shapes.items()})


def write_classifier(adapter: Adapter, bank: Bank, folder: Path) -> None:
    """Write an adapter's classifier into files of its own."""
    from safetensors.torch import save_file

    assert adapter.classifier is not None
    tensors = {
        n: t.detach().cpu().float().contiguous() for n, t in adapter.classifier.parameters().items()
    }
    save_file(tensors, folder / CLASSIFIER_TENSORS, metadata={"format": "pt"})
    text = json.dumps(written(adapter.classifier.labels, bank), indent=2, sort_keys=True)
    (folder / CLASSIFIER).write_text(text + "\n", encoding="utf-8")


def read_classifier(bank: Bank, folder: Path) -> PictureClassifier:
    """The classifier that `write_classifier` wrote, on the bank's device.

    Raises:
        ArtefactError: naming the file or the tensor that is missing or wrong.
    """
    from safetensors.torch import load_file

    for name in (CLASSIFIER, CLASSIFIER_TENSORS):
        if not (folder / name).exists():
            raise ArtefactError(
                f"{folder} has no {name}: it is no classifier of pictures that Rung made"
            )
    labels = read_labels(folders.read_json(folder / CLASSIFIER), bank)
    tensors = load_file(folder / CLASSIFIER_TENSORS)
    read = read_nearest if "sharpness" in tensors else read_linear
    found = read(labels, tensors, bank.width)
    for tensor in found.parameters().values():
        tensor.data = tensor.data.to(bank.device)
    return found
