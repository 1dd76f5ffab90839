"""Tuning a vision encoder, in part or whole, as copies of its weights: `last_layers` and `full`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rung.methods.pictures.base import BATCH, PictureMethod, Rows
from rung.methods.workload import Shape, Workload

if TYPE_CHECKING:
    from torch import Tensor

    from rung.forward.adapter import Adapter
    from rung.forward.bank import Bank
    from rung.methods import base

EPOCHS_TRIED = 8.0  # of a training, before it ends for want of a better loss
BACKWARD = 2.1  # what a backward pass takes, in forward passes


class PictureBlocks(PictureMethod):
    """The variant of `last_layers` for pictures: the last blocks and what stands behind them."""

    summary = "the encoder's last blocks, from the linear probe on"
    paper = "arXiv 2202.10054"
    own_weights = True
    defaults = {"lr": 3e-4, "epochs": 12.0, "batch_size": 32, "weight_decay": 0.01, "warmup": 0.1}

    def misfit(self, bank: Bank, config: Any) -> str | None:
        there = bank.config.num_hidden_layers
        if config.layers > there:
            return f"--layers {config.layers} is more than the encoder's {there} blocks"
        return None

    def first(self, bank: Bank, config: Any) -> int | None:
        """The block from which weights are trained; None: all of them."""
        return bank.config.num_hidden_layers - config.layers

    def find(self, study: base.Study, config: Any, train: Rows, validation: Rows) -> base.Fitted:
        from rung.methods.pictures.training import tune

        return tune(study, train, validation, self.first(study.bank, config), config.augment)

    def size(self, bank: Bank, config: Any, shape: Shape) -> int:
        from rung.methods.pictures.training import copies

        return sum(t.numel() for t in copies(bank, self.first(bank, config)).values())  # type: ignore

    def making(self, config: Any, shape: Shape, schedule: base.Schedule) -> Workload:
        once = super().making(config, shape, schedule)
        share = self.share(config, shape)
        steps = EPOCHS_TRIED * ((1 + BACKWARD) * shape.rows + shape.held)
        return once + Workload(read=share * steps, passes=share * steps / BATCH)

    def share(self, config: Any, shape: Shape) -> float:
        """How much of a pass goes through what is trained."""
        return min(1.0, config.layers / max(shape.layers, 1))

    def to_files(self, adapter: Adapter, bank: Bank, config: Any):
        from rung.methods.pictures.files import written

        assert adapter.classifier is not None
        return written(adapter.classifier.labels, bank), dict(adapter.parameters())

    def from_files(self, settings: dict[str, Any], tensors: dict[str, Tensor], bank: Bank) -> Adapter:
        from rung.forward.adapter import Adapter
        from rung.methods import layers
        from rung.methods.pictures.files import read_labels, read_linear

        labels = read_labels(settings, bank)
        own = {n: t for n, t in tensors.items() if n.startswith("weights.")}
        head = {n.removeprefix("classifier."): t for n, t in tensors.items() if n not in own}
        classifier = read_linear(labels, head, bank.width)
        return Adapter(weights=layers.from_copies(own, bank).weights, classifier=classifier)


class PictureFull(PictureBlocks):
    """The variant of `full` for pictures: every weight of the vision tower."""

    summary = "every weight of the encoder, from the linear probe on"
    defaults = {"lr": 3e-5, "epochs": 6.0, "batch_size": 16, "weight_decay": 0.01, "warmup": 0.1}

    def misfit(self, bank: Bank, config: Any) -> str | None:
        return None

    def first(self, bank: Bank, config: Any) -> int | None:
        return None

    def share(self, config: Any, shape: Shape) -> float:
        return 1.0
