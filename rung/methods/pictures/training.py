"""Training a part of a vision encoder and a linear layer behind it, from what enters its first block.

The linear layer begins as the linear probe (arXiv 2202.10054), so that training starts from what the
frozen encoder can do and not from a random direction. What is frozen below is computed once for each
picture. Batch norms keep their statistics. The best weights by the loss on validation are kept, those
of the start among them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rung.errors import Interrupted
from rung.forward.adapter import Adapter
from rung.forward.picture_bank import PictureBank
from rung.forward.picture_classifier import Linear
from rung.methods import base
from rung.methods.pictures.base import Rows, accuracy, bank_of
from rung.types import Picture

SMOOTHING = 0.05  # of labels, since rows are few
ROWS_AT_ONCE = 64  # pictures of a pass without gradients


@dataclass(kw_only=True)
class Tuning:
    """A training under way.

    Attributes:
        first: the block from which weights are trained; None: all of them, from pixels on.
        weights: own copies of the encoder's parameters, by name. head: the linear layer.
        inputs: (row numbers) -> what enters the trained part.
        codes: (rows,) labels as numbers, -1 for one that training does not have.
        count: rows of training, which come first; those of validation follow.
    """

    bank: PictureBank
    study: base.Study
    first: int | None
    weights: dict[str, Tensor]
    head: Linear
    inputs: Callable[[Tensor], Tensor]
    codes: Tensor
    count: int
    history: list[dict[str, float]] = field(default_factory=list)

    @property
    def trained(self) -> dict[str, Tensor]:
        """Every tensor that training changes, by name."""
        own = {f"weights.{name}": tensor for name, tensor in self.weights.items()}
        return own | {"head.weight": self.head.weight, "head.bias": self.head.bias}

    def logits(self, rows: Tensor) -> Tensor:
        """(n,) row numbers -> (n, L)."""
        entering = self.inputs(rows)
        encoder = self.bank.encoder
        with self.bank.replaced(self.weights):
            if self.first is None:
                leaving = encoder.between(entering)
            else:
                leaving = encoder.run(entering, self.first)
            return self.head.logits(encoder.finish(leaving)[1].float())

    def run(self) -> None:
        """Train by the run's knobs; in the end the best weights are in place.

        Raises:
            Interrupted: when the study is asked to stop.
        """
        knobs = self.study.training
        generator = torch.Generator().manual_seed(self.study.seed)
        order = batches(self.count, knobs.batch_size, knobs.epochs, knobs.steps, generator)
        optimiser = torch.optim.AdamW(
            list(self.trained.values()), lr=knobs.lr, weight_decay=knobs.weight_decay,
            betas=(knobs.beta1, knobs.beta2),
        )  # fmt: skip
        for tensor in self.trained.values():
            tensor.requires_grad_(True)
        best, kept, bad = self._measure(0), self._copy(), 0
        every = knobs.eval_every or max(1, math.ceil(self.count / knobs.batch_size))
        for step, rows in enumerate(order, 1):
            if self.study.stopping():
                raise Interrupted
            for group in optimiser.param_groups:
                group["lr"] = knobs.lr * rate(step, len(order), knobs.warmup)
            self._gradients(rows)
            torch.nn.utils.clip_grad_norm_(list(self.trained.values()), knobs.clip)
            optimiser.step()
            if step % every and step < len(order):
                continue
            found = self._measure(step)
            if found < best:
                best, kept, bad = found, self._copy(), 0
            else:
                bad += 1
            if knobs.patience and bad >= knobs.patience:
                break
        with torch.no_grad():
            for name, tensor in self.trained.items():
                tensor.copy_(kept[name])
                tensor.requires_grad_(False)
                tensor.grad = None

    def _gradients(self, rows: Tensor) -> None:
        """The gradients of a step, summed over passes that are as small as is fast."""
        tensors = list(self.trained.values())
        for tensor in tensors:
            tensor.grad = torch.zeros_like(tensor)
        for part in rows.split(self.bank.encoder.batch if self.first is None else ROWS_AT_ONCE):
            loss = F.cross_entropy(self.logits(part), self.codes[part], label_smoothing=SMOOTHING)
            found = torch.autograd.grad(loss * (len(part) / len(rows)), tensors)
            for tensor, gradient in zip(tensors, found, strict=True):
                assert tensor.grad is not None
                tensor.grad += gradient

    def _copy(self) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self.trained.items()}

    def _measure(self, step: int) -> float:
        """The loss on validation, or on training where there is none."""
        rows = torch.arange(self.count, len(self.codes))
        rows = rows[self.codes[rows] >= 0]
        if not len(rows):
            rows = torch.arange(self.count)
        found = float(F.cross_entropy(self.predicted(rows), self.codes[rows]))
        self.history.append({"step": step, "validation_loss": found})
        return found

    def predicted(self, rows: Tensor) -> Tensor:
        """Logits without gradients, in passes."""
        with torch.no_grad():
            size = self.bank.encoder.batch if self.first is None else ROWS_AT_ONCE
            return torch.cat([self.logits(part) for part in rows.split(size)])


def tune(study: base.Study, train: Rows, validation: Rows, first: int | None) -> base.Fitted:
    """Train the encoder from a block on, and the linear layer.

    Raises:
        Interrupted: when the study is asked to stop.
    """
    bank, count = bank_of(study), len(train.labels)
    pictures = [*train.pictures, *validation.pictures]
    labels = tuple(sorted(set(train.labels)))
    place = {label: i for i, label in enumerate(labels)}
    codes = torch.tensor([place.get(n, -1) for n in (*train.labels, *validation.labels)])
    inputs = _inputs(bank, study, pictures, first)
    tuning = Tuning(
        bank=bank, study=study, first=first, weights=copies(bank, first),
        head=_probe(bank, _vectors(bank, study, train, first, inputs), train), inputs=inputs,
        codes=codes.to(bank.device), count=count,
    )  # fmt: skip
    tuning.run()
    adapter = Adapter(weights=tuning.weights, classifier=tuning.head)
    metrics: dict[str, Any] = {"history": tuning.history[-20:], "steps": tuning.history[-1]["step"]}
    if validation.labels:
        said = tuning.predicted(torch.arange(count, len(codes)))
        metrics["validation_accuracy"] = accuracy(said, validation.labels, labels)
        metrics["validation_rows"] = len(validation.labels)
    return base.Fitted(adapter, metrics)


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


def _vectors(
    bank: PictureBank, study: base.Study, train: Rows, first: int | None,
    inputs: Callable[[Tensor], Tensor],
) -> Tensor:  # fmt: skip
    """The frozen encoder's vectors of the training rows, from the states that are kept anyway."""
    if first is None:
        return bank.features(train.pictures, keep=True, stopping=study.stopping)
    encoder, parts = bank.encoder, torch.arange(len(train.labels)).split(ROWS_AT_ONCE)
    with torch.no_grad():
        found = [encoder.finish(encoder.run(inputs(rows), first))[1] for rows in parts]
    return torch.cat(found).float().cpu()


def _probe(bank: PictureBank, vectors: Tensor, train: Rows) -> Linear:
    """The linear layer that training begins from: a probe of the frozen encoder."""
    from rung.methods.linear_probe.fitting import MIDDLE, Chosen, final

    chosen = Chosen("pooled", MIDDLE / len(train.labels), 0.0, 0.0, 0)
    labels, tensors = final(vectors, train.labels, "logistic", chosen)
    return Linear(labels, {n: t.to(bank.device) for n, t in tensors.items()})


def _inputs(
    bank: PictureBank, study: base.Study, pictures: Sequence[Picture], first: int | None
) -> Callable[[Tensor], Tensor]:
    """What enters the trained part: kept states of a block, or pixels that are read anew each time."""
    if first is None:
        return lambda rows: bank.encoder.pixels([pictures[i] for i in rows.tolist()])
    states = bank.states(pictures, first, study.stopping)
    return lambda rows: states[rows].to(bank.device, bank.dtype)


def batches(
    count: int, batch: int, epochs: float, steps: int | None, generator: torch.Generator
) -> list[Tensor]:
    """Row numbers of every step: each epoch in an order of its own."""
    total = steps or max(1, math.ceil(epochs * count / batch))
    found: list[Tensor] = []
    while len(found) < total:
        found += torch.randperm(count, generator=generator).split(batch)
    return found[:total]


def rate(step: int, total: int, warmup: float) -> float:
    """Of the peak learning rate: up along the warm-up, then down along a cosine."""
    rise = max(1, round(warmup * total))
    if step <= rise:
        return step / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, total - rise)))
