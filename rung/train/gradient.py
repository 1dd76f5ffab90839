"""The gradient of one optimiser step, in micro-batches that fit into memory.

The loss is the mean over the whole step's supervised tokens, so that however the step is split, its
gradient is that of the undivided batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from rung.errors import TrainingStopped
from rung.forward.bank import Bank
from rung.forward.features import Boundary
from rung.forward.trie import Trie
from rung.objectives import Objective
from rung.types import Rendered

LARGEST_SCALE = 2.0**16


@dataclass
class Gradient:
    """Of the mean loss; one tensor per parameter, in their order, each with memory of its own."""

    tensors: list[Tensor]
    loss: float
    tokens: int
    accuracy: float = 0.0  # share of the supervised tokens that were the likeliest

    @cached_property
    def norm(self) -> Tensor:
        """Of all tensors as one vector."""
        return torch.nn.utils.get_total_norm(self.tensors)


class Gradients:
    """Computes gradients of one adapter's parameters.

    Args:
        max_tokens: budget of a micro-batch; halved for good when memory runs out.
        note: told what happened, for the log.
        stopping: asked between micro-batches; True abandons the step.
        boundary: states that passes start from; None runs the whole base.
    """

    def __init__(
        self,
        bank: Bank,
        objective: Objective,
        slot: int,
        parameters: dict[str, Tensor],
        max_tokens: int,
        note: Callable[[str], None],
        stopping: Callable[[], bool] = lambda: False,
        boundary: Boundary | None = None,
    ):
        self.bank, self.objective, self.slot = bank, objective, slot
        self.parameters = list(parameters.values())
        self.max_tokens, self.note, self.stopping = max_tokens, note, stopping
        self.boundary = boundary
        # float16 loses small gradients below 6e-8; the loss is scaled up before and down after.
        self.scale = LARGEST_SCALE if bank.dtype == torch.float16 else 1.0

    def of(self, rows: list[Rendered], step: int) -> Gradient | None:
        """The step's gradient, or None when it was abandoned.

        Raises:
            TrainingStopped: for a loss or gradient that is not finite, naming step and rows, or when
                a single row does not fit into memory.
        """
        while True:
            result = self._try(rows)
            if result is None or _finite(result):
                return result
            if self.scale > 1.0:
                self.scale /= 2
                continue
            raise TrainingStopped(self._blame(rows, step))

    def _try(self, rows: list[Rendered]) -> Gradient | None:
        weight = sum(self.objective.weight(r) for r in rows) or 1.0
        total: list[Tensor] | None = None
        loss, correct, waiting = 0.0, 0.0, self._pack(rows)
        while waiting:
            if self.stopping():
                return None
            micro = waiting.pop(0)
            try:
                part, right, gradients = self._micro(micro, weight)
            except (RuntimeError, MemoryError) as fault:
                if not out_of_memory(fault):
                    raise
                waiting = self._halve(micro) + waiting
                continue
            loss, correct = loss + part, correct + right
            if total is None and self.scale == 1.0:
                total = _own(gradients, self.parameters)
                continue
            total = total or [torch.zeros_like(p) for p in self.parameters]
            for sum_, gradient in zip(total, gradients, strict=True):
                if gradient is not None:
                    sum_.add_(gradient, alpha=1 / self.scale)
        return Gradient(total or [], loss, sum(len(r.ids) for r in rows), correct)

    def _micro(self, rows: list[Rendered], weight: float) -> tuple[float, float, tuple]:
        sequences = [s for r in rows for s in self.objective.sequences(r, self.slot)]
        trie = self.bank.trie(sequences, prune=True)
        hidden = self.forward(trie)
        found = self.objective.loss(self.bank, trie, hidden, self.slot, accuracy=True)
        loss = found.total / weight
        value = float(loss.detach())
        gradients = torch.autograd.grad(loss * self.scale, self.parameters, allow_unused=True)
        return value, found.correct / weight, gradients

    def forward(self, trie: Trie) -> Tensor:
        """Hidden states after the final norm, (T, d)."""
        if self.boundary is None:
            return self.bank.forward(trie, edges_only=self.objective.edges_only)
        return self.boundary.forward(trie, self.objective.edges_only)

    def _pack(self, rows: list[Rendered]) -> list[list[Rendered]]:
        """Rows in the order of their tokens, so that what they share falls into one micro-batch."""
        groups: list[list[Rendered]] = []
        used, previous = 0, None
        for row in sorted(rows, key=lambda r: r.ids):
            cost = len(row.ids) - _shared(previous, row)
            if groups and used + cost <= self.max_tokens:
                groups[-1].append(row)
                used += cost
            else:
                groups.append([row])
                used = len(row.ids)
            previous = row
        return groups

    def _halve(self, micro: list[Rendered]) -> list[list[Rendered]]:
        if len(micro) == 1:
            raise TrainingStopped(
                f"out of memory on a single row of {len(micro[0].ids)} tokens ({micro[0].origin}): "
                "lower --max-length, or take a smaller base or a cheaper method"
            )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        tokens = sum(len(r.ids) for r in micro)
        self.max_tokens = max(1, min(self.max_tokens, tokens) // 2)
        self.note(
            f"out of memory at {tokens} tokens: the step is repeated in parts of at most "
            f"{self.max_tokens}, with the same gradient"
        )
        half = len(micro) // 2
        return [micro[:half], micro[half:]]

    def _blame(self, rows: list[Rendered], step: int) -> str:
        """Which rows alone give a loss that is not finite."""
        weight = sum(self.objective.weight(r) for r in rows) or 1.0
        guilty = [r.origin for r in rows if not math.isfinite(self._micro([r], weight)[0])]
        named = ", ".join((guilty or [r.origin for r in rows])[:8])
        return (
            f"the loss or its gradient is not finite at step {step + 1}, rows {named}: "
            "the last good weights are kept; lower --lr, or use --dtype float32"
        )


def out_of_memory(fault: BaseException) -> bool:
    """Whether torch, CUDA or the system ran out of memory."""
    if isinstance(fault, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(fault)
    return "out of memory" in text or "can't allocate memory" in text


def _own(gradients: tuple, parameters: list[Tensor]) -> list[Tensor]:
    """Gradients as autograd gave them, in memory that nothing else uses.

    It gives None for a parameter without influence, and may give one tensor, or a part of it, twice.
    """
    found, seen = [], set()
    for gradient, parameter in zip(gradients, parameters, strict=True):
        if gradient is None:
            gradient = torch.zeros_like(parameter)
        storage = gradient.untyped_storage()
        whole = gradient.is_contiguous() and storage.nbytes() == gradient.nbytes
        if not whole or storage.data_ptr() in seen:
            gradient = gradient.clone(memory_format=torch.contiguous_format)
        seen.add(storage.data_ptr())
        found.append(gradient)
    return found


def _finite(result: Gradient) -> bool:
    if not math.isfinite(result.loss):
        return False
    if not result.tensors or bool(result.norm.isfinite()):
        return True
    # Squares overflow long before values do. One value for all tensors: an infinity or NaN anywhere
    # makes the largest magnitude one too.
    return bool(torch.stack(torch._foreach_norm(result.tensors, math.inf)).isfinite().all())


def _shared(a: Rendered | None, b: Rendered) -> int:
    if a is None:
        return 0
    count = 0
    for x, y in zip(a.ids, b.ids, strict=False):
        if x != y:
            break
        count += 1
    return count


@torch.no_grad()
def evaluate(
    bank: Bank,
    objective: Objective,
    slot: int,
    rows: list[Rendered],
    max_tokens: int,
    boundary: Boundary | None = None,
) -> dict[str, float]:
    """Mean loss and token accuracy of an adapter over rows, {} for none."""
    if not rows:
        return {}
    runner = Gradients(bank, objective, slot, {}, max_tokens, lambda _: None, boundary=boundary)
    total = weight = correct = 0.0
    for micro in runner._pack(rows):
        sequences = [s for r in micro for s in objective.sequences(r, slot)]
        trie = bank.trie(sequences, prune=True)
        loss = objective.loss(bank, trie, runner.forward(trie), slot, accuracy=True)
        total, weight = total + float(loss.total), weight + loss.weight
        correct += loss.correct
    return {"loss": total / max(weight, 1e-9), "token_accuracy": correct / max(weight, 1e-9)}
