"""LoRA on pictures: low-rank weights beside a vision encoder's projections (arXiv 2106.09685).

By default those of the vision tower, with a linear layer behind them that begins as the linear probe.
With `--text-tower`, those of both towers of CLIP or SigLIP: labels are told apart by the vectors of
their names, as in zero-shot, and both towers learn (as in arXiv 2405.18541). What is written is PEFT's
layout, with the classifier beside it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rung.methods.pictures.base import BATCH, PictureMethod, Rows, bank_of
from rung.methods.workload import Shape, Workload

if TYPE_CHECKING:
    from torch import nn

    from rung.forward.adapter import Adapter
    from rung.forward.bank import Bank
    from rung.methods import base

EPOCHS_TRIED = 10.0  # of a training, before it ends for want of a better loss
BACKWARD = 1.2  # what a backward pass takes, in forward passes; no gradients of the encoder's weights
SENTENCE = "a photo of a {}."


class PictureLora(PictureMethod):
    """The variant of `lora` for pictures."""

    summary = "low-rank weights beside the encoder's projections, from the linear probe on"
    paper = "arXiv 2106.09685"
    peft_type = "LORA"
    defaults = {"lr": 5e-4, "epochs": 15.0, "batch_size": 32, "weight_decay": 0.01, "warmup": 0.1}

    def misfit(self, bank: Bank, config: Any) -> str | None:
        from rung.methods import layers, low_rank

        if config.text_tower and not bank.encoder.speaks:  # type: ignore[attr-defined]
            return "it has no text tower: leave --text-tower out"
        if not layers.projections(bank):
            return "it is built of convolutions and has no linear projections: use last_layers"
        return low_rank.clash(bank, config)

    def find(self, study: base.Study, config: Any, train: Rows, validation: Rows) -> base.Fitted:
        import torch

        from rung.forward.adapter import Adapter
        from rung.methods import low_rank
        from rung.methods.base import Start
        from rung.methods.pictures import training

        bank = bank_of(study)
        start = Start(torch.Generator().manual_seed(study.seed))
        ops = {n: low_rank.fresh(config, start, n, p, None) for n, p in adapted(bank, config).items()}
        pictures = [*train.pictures, *validation.pictures]
        adapter = Adapter(linear=ops).to(bank.device)
        first = min(bank.frozen_below(Adapter(linear={n: op})) for n, op in ops.items())
        inputs = training.EncoderInputs.of(study, pictures, first, config.augment)
        shared: dict[str, Any] = {
            "study": study, "codes": training.codes_for(bank, train, validation), "adapter": adapter,
            "count": len(train.labels), "size": inputs.size, "inputs": inputs,
            "plus": config.plus,
        }  # fmt: skip
        if config.text_tower:
            from rung.methods.pictures.names import NamesLoop

            return NamesLoop.of(sorted(set(train.labels)), SENTENCE, shared).fitted(validation)
        adapter.classifier = training.probe(study, inputs, train)
        return training.EncoderLoop(**shared).fitted(validation)

    def size(self, bank: Bank, config: Any, shape: Shape) -> int:
        widths = [d_in + d_out for _, d_in, d_out in adapted(bank, config).values()]
        return config.rank * sum(widths) + shape.labels * bank.width

    def making(self, config: Any, shape: Shape, schedule: base.Schedule) -> Workload:
        steps = EPOCHS_TRIED * ((1 + BACKWARD) * shape.rows + shape.held)
        return super().making(config, shape, schedule) + Workload(read=steps, passes=steps / BATCH)

    def to_files(self, adapter: Adapter, bank: Bank, config: Any):
        from rung.methods import low_rank

        settings, tensors = low_rank.peft_files(adapter, bank, config)
        return {**settings, "task_type": None}, tensors

    def to_folder(self, adapter: Adapter, bank: Bank, folder: Path) -> None:
        from rung.methods.pictures.files import write_classifier

        write_classifier(adapter, bank, folder)

    def from_folder(self, adapter: Adapter, bank: Bank, folder: Path) -> None:
        from rung.methods.pictures.files import read_classifier

        adapter.classifier = read_classifier(bank, folder)


def adapted(bank: Bank, config: Any) -> dict[str, tuple[nn.Module, int, int]]:
    """The projections that the settings name: of the vision tower, or of the text tower too.

    Raises:
        MethodMisfit: for a target that names nothing.
    """
    from rung.errors import MethodMisfit
    from rung.methods import layers

    found = layers.chosen(bank, config.targets)
    if not config.text_tower:
        seeing = {id(m) for m in bank.encoder.tower.modules()}  # type: ignore[attr-defined]
        found = {name: p for name, p in found.items() if id(p[0]) in seeing}
    if not found:
        raise MethodMisfit(
            f"--targets {', '.join(config.targets)} names no projection of the vision tower: use "
            "all-linear, or --text-tower for both towers"
        )
    return found
