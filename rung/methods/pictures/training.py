"""Training a vision encoder and a linear layer behind it, from what enters the first changed block.

What is changed are copies of the encoder's weights, or low-rank weights beside its projections. The
linear layer begins as the linear probe (arXiv 2202.10054), so that training starts from what the
frozen encoder can do and not from a random direction. What is frozen below is computed once for each
picture, unless pictures are augmented. Batch norms keep their statistics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rung.forward.adapter import Adapter
from rung.forward.picture_bank import PictureBank
from rung.forward.picture_classifier import Linear
from rung.methods import base
from rung.methods.pictures.base import Rows, bank_of
from rung.methods.pictures.loop import Loop, codes_of
from rung.pictures.augmentation import Augmentation
from rung.types import Picture

ROWS_AT_ONCE = 64  # pictures of a pass without gradients


@dataclass(kw_only=True)
class EncoderInputs:
    """What enters the trained part of an encoder.

    Attributes:
        pictures: of training and then of validation.
        first: the first block that is trained; None: from pixels on.
        states: (rows, ...) kept, where nothing changes them; None: computed anew each time.
    """

    bank: PictureBank
    pictures: Sequence[Picture]
    first: int | None
    augmentation: Augmentation
    states: Tensor | None = None

    @classmethod
    def of(
        cls, study: base.Study, pictures: Sequence[Picture], first: int | None, augment: Sequence[str]
    ) -> EncoderInputs:
        """States of the frozen blocks, kept on disk, or pixels.

        Raises:
            Interrupted: when the study is asked to stop.
        """
        bank = bank_of(study)
        states = None if first is None else bank.states(pictures, first, study.stopping)
        return cls(
            bank=bank, pictures=pictures, first=first, states=states,
            augmentation=Augmentation(augment, study.seed),
        )  # fmt: skip

    @property
    def size(self) -> int:
        """Pictures of a pass that is fast."""
        whole = self.first is None or bool(self.augmentation)
        return self.bank.encoder.batch if whole else ROWS_AT_ONCE

    def leaving(self, rows: Tensor, step: int | None = None) -> Tensor:
        """Row numbers (n,) -> what leaves the last block, with gradients of what is trained."""
        encoder, first = self.bank.encoder, self.first
        if self.states is not None and (step is None or not self.augmentation):
            return encoder.run(self.states[rows].to(self.bank.device, self.bank.dtype), first or 0)
        pixels = encoder.pixels([self.pictures[i] for i in rows.tolist()])
        if step is not None and self.augmentation:
            pixels = self.augmentation(pixels, rows.tolist(), step)
        if first is None:
            return encoder.between(pixels)
        with torch.no_grad():
            states = encoder.between(pixels, first)
        return encoder.run(states, first)

    def vectors(self, rows: Tensor, step: int | None = None) -> Tensor:
        """Row numbers (n,) -> pooled vectors (n, d), float32."""
        return self.bank.encoder.finish(self.leaving(rows, step))[1].float()


@dataclass(kw_only=True)
class EncoderLoop(Loop):
    """The encoder's own copies or low-rank weights, and a linear layer behind it.

    Attributes:
        plus: times the learning rate that LoRA's B learns with.
    """

    adapter: Adapter
    inputs: EncoderInputs
    plus: float = 1.0

    @property
    def head(self) -> Linear:
        assert isinstance(self.adapter.classifier, Linear)
        return self.adapter.classifier

    @property
    def trained(self) -> dict[str, Tensor]:
        fixed = ("classifier.mean", "classifier.scale")  # of the vectors that the probe was fitted on
        return {n: t for n, t in self.adapter.parameters().items() if n not in fixed}

    def rates(self) -> dict[str, float]:
        return {name: self.plus for name in self.trained if name.endswith(".lora_B")}

    def finished(self) -> Adapter:
        return self.adapter.kept()

    def logits(self, rows: Tensor, step: int | None = None) -> Tensor:
        with self.inputs.bank.acting(self.adapter):
            return self.head.logits(self.inputs.vectors(rows, step))


def tune(
    study: base.Study, train: Rows, validation: Rows, first: int | None, augment: Sequence[str]
) -> base.Fitted:
    """Train copies of the encoder's weights from a block on, and the linear layer.

    Raises:
        Interrupted: when the study is asked to stop.
    """
    inputs = EncoderInputs.of(study, [*train.pictures, *validation.pictures], first, augment)
    adapter = Adapter(weights=copies(inputs.bank, first), classifier=probe(study, inputs, train))
    loop = EncoderLoop(
        study=study, codes=codes_for(inputs.bank, train, validation), count=len(train.labels),
        size=inputs.size, adapter=adapter, inputs=inputs,
    )  # fmt: skip
    return loop.fitted(validation)


def codes_for(bank: PictureBank, train: Rows, validation: Rows) -> Tensor:
    """Labels of both parts as numbers among those of training, on the bank's device."""
    labels = tuple(sorted(set(train.labels)))
    return codes_of(labels, [*train.labels, *validation.labels]).to(bank.device)


def copies(bank: PictureBank, first: int | None) -> dict[str, Tensor]:
    """Copies of the parameters that are trained: of blocks from `first` on, and of what is behind."""
    model, blocks = bank.model, bank.encoder.blocks
    own = {id(p): n for n, block in enumerate(blocks) for p in block.parameters()}
    kept, passed = {}, False
    tower = {id(p) for p in bank.encoder.tower.parameters()}
    for name, parameter in model.named_parameters():
        passed = passed or id(parameter) in own
        at = own.get(id(parameter), len(blocks) if passed else -1)
        used = id(parameter) in tower or name.startswith("visual_projection")
        if used and (first is None or at >= first) and name not in UNUSED:
            kept[name] = parameter.detach().to(torch.float32, copy=True)
    return kept


# Layers for ImageNet's classes, and ViT's pooler, which nothing here reads.
UNUSED = ("_fc.weight", "_fc.bias", "pooler.dense.weight", "pooler.dense.bias")


def probe(study: base.Study, inputs: EncoderInputs, train: Rows) -> Linear:
    """The linear layer that training begins from: a probe of the frozen encoder."""
    from rung.methods.linear_probe.fitting import MIDDLE, Chosen, final

    bank = inputs.bank
    if inputs.states is None:
        vectors = bank.features(train.pictures, keep=True, stopping=study.stopping)
    else:  # from the states that are kept anyway
        parts = torch.arange(len(train.labels)).split(ROWS_AT_ONCE)
        with torch.no_grad():
            vectors = torch.cat([inputs.vectors(rows) for rows in parts]).cpu()
    chosen = Chosen("pooled", MIDDLE / len(train.labels), 0.0, 0.0, 0)
    labels, tensors = final(vectors, train.labels, "logistic", chosen)
    return Linear(labels, {n: t.to(bank.device) for n, t in tensors.items()})
