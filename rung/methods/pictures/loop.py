"""The training loop of methods on pictures: steps of AdamW or SGD, the best tensors by validation.

Few tensors and few rows: the loop keeps everything in memory and is not resumed but begun again, and
what it does follows from seed, step and row alone.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rung.errors import Interrupted, OutOfTime
from rung.forward.adapter import Adapter
from rung.methods import base
from rung.methods.pictures.base import Rows, accuracy

SMOOTHING = 0.05  # of labels, since rows are few


@dataclass(kw_only=True)
class Loop(ABC):
    """A training under way.

    Attributes:
        codes: (rows,) labels as numbers, -1 for one that training does not have.
        count: rows of training, which come first; those of validation follow.
        size: rows of one pass.
        history: the loss on validation at each look.
    """

    study: base.Study
    codes: Tensor
    count: int
    size: int
    history: list[dict[str, float]] = field(default_factory=list)

    @property
    @abstractmethod
    def trained(self) -> dict[str, Tensor]:
        """Every tensor that training changes, by name."""

    @abstractmethod
    def logits(self, rows: Tensor, step: int | None = None) -> Tensor:
        """Row numbers (n,) -> (n, L).

        Args:
            step: of the training, whose augmentation is drawn; None for rows as they are.
        """

    @abstractmethod
    def finished(self) -> Adapter:
        """The adapter, of the tensors as they are now."""

    def optimiser(self) -> torch.optim.Optimizer:
        """What steps; each group has `rate`, times the learning rate of the run."""
        knobs, rates = self.study.training, self.rates()
        groups = [{"params": [t], "rate": rates.get(n, 1.0)} for n, t in self.trained.items()]
        return torch.optim.AdamW(
            groups, lr=knobs.lr, weight_decay=knobs.weight_decay, betas=(knobs.beta1, knobs.beta2)
        )

    def rates(self) -> dict[str, float]:
        """Times the learning rate that some of the trained tensors learn with, by their names."""
        return {}

    def run(self) -> None:
        """Train by the run's knobs; in the end the best weights are in place.

        Raises:
            Interrupted: when the study is asked to stop.
        """
        knobs = self.study.training
        generator = torch.Generator().manual_seed(self.study.seed)
        order = batches(self.count, knobs.batch_size, knobs.epochs, knobs.steps, generator)
        optimiser = self.optimiser()
        for tensor in self.trained.values():
            tensor.requires_grad_(True)
        best, kept, bad = self._measure(0), self._copy(), 0
        every = knobs.eval_every or max(1, math.ceil(self.count / knobs.batch_size))
        for step, rows in enumerate(order, 1):
            if ended(self.study, step):
                if self._measure(step - 1) < best:
                    kept = self._copy()
                break
            for group in optimiser.param_groups:
                group["lr"] = knobs.lr * group["rate"] * rate(step, len(order), knobs.warmup)
            self.gradients(rows, step)
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

    def fitted(self, validation: Rows) -> base.Fitted:
        """Train, and say what came of it. Raises Interrupted when the study is asked to stop."""
        self.run()
        adapter = self.finished()
        assert adapter.classifier is not None
        metrics: dict[str, Any] = {"history": self.history[-20:], "steps": self.history[-1]["step"]}
        if validation.labels:
            said = self.predicted(torch.arange(self.count, len(self.codes)))
            right = accuracy(said, validation.labels, adapter.classifier.labels)
            metrics |= {"validation_accuracy": right, "validation_rows": len(validation.labels)}
        return base.Fitted(adapter, metrics)

    def gradients(self, rows: Tensor, step: int) -> None:
        """The gradients of a step, summed over passes that are as small as is fast."""
        tensors = list(self.trained.values())
        for tensor in tensors:
            tensor.grad = None
        for part in rows.split(self.size):
            loss = F.cross_entropy(self.logits(part, step), self.codes[part], label_smoothing=SMOOTHING)
            found = torch.autograd.grad(loss * (len(part) / len(rows)), tensors)
            for tensor, gradient in zip(tensors, found, strict=True):
                tensor.grad = gradient if tensor.grad is None else tensor.grad.add_(gradient)

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
            return torch.cat([self.logits(part) for part in rows.split(self.size)])


def ended(study: base.Study, step: int) -> bool:
    """Tell whether a training's time is over before a step that is not its first.

    Raises:
        Interrupted: when the study is asked to stop. OutOfTime: before anything was learnt.
    """
    try:
        stopping = study.stopping()
    except OutOfTime:
        if step == 1:
            raise
        study.note(f"ended at step {step - 1}: its time was over")
        return True
    if stopping:
        raise Interrupted
    return False


def codes_of(labels: Sequence[str], given: Sequence[str]) -> Tensor:
    """Labels as numbers (n,); -1 for one that is not among `labels`."""
    place = {label: i for i, label in enumerate(labels)}
    return torch.tensor([place.get(name, -1) for name in given])


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
