"""A small convolutional network from random weights, on the pictures alone.

It stands beside the encoder, of which it takes nothing but how pictures are prepared, made smaller.
What it comes to says how much the encoder's pretraining is worth on these pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rung.methods.pictures.base import PictureMethod, Rows, accuracy, bank_of
from rung.methods.workload import Shape, Workload

if TYPE_CHECKING:
    from torch import Tensor

    from rung.forward.adapter import Adapter
    from rung.forward.bank import Bank
    from rung.methods import base


class PictureScratch(PictureMethod):
    """The variant of `scratch` for pictures."""

    summary = "a small convolutional network of your own, from random weights"
    defaults = {"lr": 2e-3, "epochs": 40.0, "batch_size": 32, "weight_decay": 0.05, "warmup": 0.1}

    def misfit(self, bank: Bank, config: Any) -> str | None:
        return None

    def making(self, config: Any, shape: Shape, schedule: base.Schedule) -> Workload:
        pictures = shape.rows + shape.held
        return Workload(read=float(pictures + 40 * shape.rows * 0.1))

    def find(self, study: base.Study, config: Any, train: Rows, validation: Rows) -> base.Fitted:
        import torch

        from rung.forward.adapter import Adapter
        from rung.forward.small_network import SmallNetwork, reduced
        from rung.methods.base import Fitted

        bank = bank_of(study)
        labels = tuple(sorted(set(train.labels)))
        generator = torch.Generator().manual_seed(study.seed)
        network = SmallNetwork.fresh(labels, generator, config.width or 32)
        pixels = torch.cat(
            [reduced(bank.encoder.pixels(part)) for part in _parts(train.pictures, study)]
        )
        place = {label: i for i, label in enumerate(labels)}
        codes = torch.tensor([place[label] for label in train.labels], device=pixels.device)
        network.to(bank.device)
        _train(study, network, pixels, codes, config.augment)
        metrics: dict[str, Any] = {}
        if validation.labels:
            shown = torch.cat(
                [reduced(bank.encoder.pixels(part)) for part in _parts(validation.pictures, study)]
            )
            with torch.no_grad():
                right = accuracy(network.forward(shown), validation.labels, labels)
            metrics = {"validation_accuracy": right, "validation_rows": len(validation.labels)}
        return Fitted(Adapter(classifier=network), metrics)

    def to_files(self, adapter: Adapter, bank: Bank, config: Any):
        from rung.methods.pictures.files import written

        assert adapter.classifier is not None
        return written(adapter.classifier.labels, bank), adapter.classifier.parameters()

    def from_files(self, settings: dict[str, Any], tensors: dict[str, Tensor], bank: Bank) -> Adapter:
        from rung.forward.adapter import Adapter
        from rung.forward.small_network import SmallNetwork
        from rung.methods.pictures.files import read_labels

        return Adapter(classifier=SmallNetwork(read_labels(settings, bank), tensors))


def _parts(pictures: Sequence[Any], study: base.Study) -> Any:
    """Pictures in passes, between which the study may be stopped."""
    from rung.errors import Interrupted

    for first in range(0, len(pictures), 32):
        if study.stopping():
            raise Interrupted
        yield pictures[first : first + 32]


def _train(
    study: base.Study, network: Any, pixels: Tensor, codes: Tensor, augment: Sequence[str]
) -> None:
    """AdamW over all weights of the network, on augmented pictures."""
    import torch
    import torch.nn.functional as F

    from rung.methods.pictures.loop import SMOOTHING, batches, ended, rate
    from rung.pictures.augmentation import Augmentation

    knobs, changed = study.training, Augmentation(augment, study.seed)
    generator = torch.Generator().manual_seed(study.seed)
    tensors = [t.requires_grad_(True) for t in network.parameters().values()]
    optimiser = torch.optim.AdamW(tensors, lr=knobs.lr, weight_decay=knobs.weight_decay)
    order = batches(len(codes), knobs.batch_size, knobs.epochs, knobs.steps, generator)
    for step, rows in enumerate(order, 1):
        if ended(study, step):
            break
        for group in optimiser.param_groups:
            group["lr"] = knobs.lr * rate(step, len(order), knobs.warmup)
        shown = changed(pixels[rows], rows.tolist(), step)
        loss = F.cross_entropy(network.forward(shown), codes[rows], label_smoothing=SMOOTHING)
        for tensor, gradient in zip(tensors, torch.autograd.grad(loss, tensors), strict=True):
            tensor.grad = gradient
        optimiser.step()
    for tensor in tensors:
        tensor.requires_grad_(False)
        tensor.grad = None
